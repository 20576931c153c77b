//go:build cluster

package hosted_test

import (
	"context"
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

	"drayage.dev/test/cluster"
	"drayage.dev/test/schema"
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
		for _, wrong := range []string{"manager.replica=3", "manager.replicas=0", "network.podCIDR=10.0.0.0", "leaderElection.leaseDuration=soon", "crds.keep=perhaps",
			"network.podCIDR=fd00::/48", "network.nodeCIDRMaskSize=31", "network.nodeCIDRMaskSize=15", "network.nodeCIDRMaskSize=28",
			"network.stubDomains.corp={}", "network.stubDomains.corp={dns.example}", "network.stubDomains.corp=192.0.2.53"} {
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
		objects, err := schema.Decode(out)
		Expect(err).NotTo(HaveOccurred())
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
		Entry("with a size of nodes' shares and stub domains", func(objects []runtime.Object) {
			arguments := map[string][]string{}
			for _, object := range objects {
				switch object := object.(type) {
				case *appsv1.Deployment:
					arguments[object.Name] = object.Spec.Template.Spec.Containers[0].Args
				case *appsv1.DaemonSet:
					arguments[object.Name] = object.Spec.Template.Spec.Containers[0].Args
				}
			}
			Expect(arguments["drayage-manager"]).To(ContainElement("--node-cidr-mask-size=27"))
			Expect(arguments["drayage-agent"]).To(ContainElements(
				"--stub-domain=corp.example=192.0.2.53,192.0.2.54:5353", "--stub-domain=other.example=[2001:db8::53]:5353"))
		},
			"--set", "network.nodeCIDRMaskSize=27", "--set", `network.stubDomains.corp\.example={192.0.2.53,192.0.2.54:5353}`,
			"--set", `network.stubDomains.other\.example={[2001:db8::53]:5353}`),
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
