//go:build cluster

package hosted_test

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"drayage.dev/test/cluster"
)

var _ = Describe("the chart", func() {
	chart := filepath.Join(repository(), "charts", "drayage")
	helm := func(ctx context.Context, binary string, args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, cluster.Binary(binary), args...).CombinedOutput()
		return string(out), err
	}

	DescribeTable("is sound to Helm", func(ctx SpecContext, binary string) {
		out, err := helm(ctx, binary, "lint", "--strict", chart)
		Expect(err).NotTo(HaveOccurred(), out)
		for _, wrong := range []string{"manager.replica=3", "manager.replicas=0", "network.podCIDR=10.0.0.0", "leaderElection.leaseDuration=soon", "crds.keep=perhaps"} {
			out, err := helm(ctx, binary, "template", chart, "--set", wrong)
			Expect(err).To(HaveOccurred(), "%s: %s", wrong, out)
			Expect(out).To(ContainSubstring(strings.SplitN(strings.SplitN(wrong, "=", 2)[0], ".", 2)[0]), wrong)
		}
	},
		Entry("of version 3", "helm"),
		Entry("of version 4", "helm4"),
	)

	DescribeTable("renders objects that the API server knows, field for field", func(ctx SpecContext, check func([]runtime.Object), args ...string) {
		out, err := helm(ctx, "helm", append([]string{"template", "drayage", chart, "--namespace", namespace}, args...)...)
		Expect(err).NotTo(HaveOccurred(), out)
		objects := decodeStrictly(out)
		Expect(objects).NotTo(BeEmpty())
		check(objects)
	},
		Entry("by default", func(objects []runtime.Object) {
			Expect(crds(objects)).To(HaveEach(HaveField("Annotations", HaveKeyWithValue("helm.sh/resource-policy", "keep"))))
			for _, object := range objects {
				if hooks, ok := object.(*admissionregistrationv1.MutatingWebhookConfiguration); ok {
					Expect(hooks.Webhooks[0].MatchConditions[0].Expression).To(ContainSubstring("system:serviceaccount:" + namespace + ":drayage-manager"))
				}
			}
		}),
		Entry("with everything on", func(objects []runtime.Object) {
			Expect(crds(objects)).To(HaveEach(HaveField("Annotations", Not(HaveKey("helm.sh/resource-policy")))))
			var monitors, configurations int
			for _, object := range objects {
				switch object := object.(type) {
				case *unstructured.Unstructured:
					Expect(object.GetKind()).To(Equal("PodMonitor"))
					monitors++
				case *corev1.ConfigMap:
					configurations++
				case *appsv1.Deployment:
					Expect(object.Spec.Template.Spec.Containers[0].Image).To(Equal("example.com/drayage@sha256:" + strings.Repeat("a", 64)))
					Expect(object.Spec.Template.Spec.ImagePullSecrets).To(HaveLen(1))
				}
			}
			Expect(monitors).To(Equal(2))
			Expect(configurations).To(Equal(2), "the scheduler's and that of helm test")
		},
			"--set", "crds.keep=false", "--set", "podMonitor.enabled=true", "--set", "image.repository=example.com/drayage",
			"--set", "image.digest=sha256:"+strings.Repeat("a", 64), "--set", "imagePullSecrets={registry}",
			"--set", "secureMetrics.enabled=true", "--set", "logging.format=json", "--set", "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
			"--set", "scheduler.configuration.apiVersion=kubescheduler.config.k8s.io/v1",
			"--set", "scheduler.configuration.kind=KubeSchedulerConfiguration",
			"--set", "manager.tolerations[0].operator=Exists", "--set", "manager.podAnnotations.a=b"),
		Entry("without the kinds", func(objects []runtime.Object) { Expect(crds(objects)).To(BeEmpty()) }, "--set", "crds.install=false"),
	)
})

func crds(objects []runtime.Object) (found []*apiextensionsv1.CustomResourceDefinition) {
	for _, object := range objects {
		if crd, ok := object.(*apiextensionsv1.CustomResourceDefinition); ok {
			found = append(found, crd)
		}
	}
	return found
}

// decodeStrictly decodes a stream of YAML documents into upstream's types; an unknown field fails. The one
// kind that is not upstream's stays as it is.
func decodeStrictly(stream string) (objects []runtime.Object) {
	GinkgoHelper()
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		Expect(add(known)).To(Succeed())
	}
	decoder := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	reader := utilyaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(stream)))
	buffer := make([]byte, 1<<20)
	for {
		n, err := reader.Read(buffer)
		if errors.Is(err, io.EOF) {
			return objects
		}
		Expect(err).NotTo(HaveOccurred())
		document := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(buffer[:n])), "---"))
		if onlyComments(document) {
			continue
		}
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if runtime.IsNotRegisteredError(err) {
			other := &unstructured.Unstructured{}
			Expect(utilyaml.Unmarshal([]byte(document), &other.Object)).To(Succeed())
			objects = append(objects, other)
			continue
		}
		Expect(err).NotTo(HaveOccurred(), document)
		objects = append(objects, object)
	}
}

func onlyComments(document string) bool {
	for _, line := range strings.Split(document, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}
