//go:build cluster

package hosted_test

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

// team is the namespace of the sample application.
const team = "team"

var chart = filepath.Join(repository(), "charts", "drayage")

// The specs tell one cluster's story: each needs what those before it have done.
var _ = Describe("Drayage as a guest", Ordered, func() {
	BeforeAll(func(ctx SpecContext) { h = startHost(ctx) }, NodeTimeout(3*time.Minute))

	AfterEach(func(ctx SpecContext) {
		if h != nil && CurrentSpecReport().Failed() {
			GinkgoWriter.Println(h.dump(ctx))
		}
	})

	specsOfInstallation()
	specsOfCommandLine()
	specsOfNetwork()
	specsOfIdentity()
	specsOfSlot()
	specsOfAvailability()
	specsOfUninstallation()
})

func specsOfInstallation() {
	It("comes to a cluster at work", func(ctx SpecContext) {
		Expect(kubectl(ctx, "create", "namespace", team)).Error().NotTo(HaveOccurred())
		for _, manifest := range []string{"coredns.yaml", "ordinary.yaml"} {
			Expect(kubectl(ctx, "apply", "-f", filepath.Join(repository(), "test/hosted/testdata", manifest))).Error().NotTo(HaveOccurred())
		}
		rolledOut(ctx, "kube-system", "deployment/coredns")
		rolledOut(ctx, "default", "deployment/ordinary")
		address := h.service(ctx, "default", "ordinary")
		for _, m := range h.machines {
			Eventually(m.fetch("http://" + address + "/")).Should(ContainSubstring("my-app:1.0"))
		}
	}, SpecTimeout(3*time.Minute))

	It("is installed by helm", func(ctx SpecContext) {
		for _, m := range h.machines {
			m.before = m.snapshot()
		}
		h.install(ctx, "helm")
		for _, m := range h.machines {
			Eventually(nodeReady(ctx, m.name)).Should(Succeed())
		}
	}, SpecTimeout(5*time.Minute))

	It("passes its own test", func(ctx SpecContext) {
		Expect(h.run(ctx, "helm", "test", "drayage", "--namespace", namespace, "--timeout", "2m")).Error().NotTo(HaveOccurred())
	}, SpecTimeout(3*time.Minute))

	It("keeps its release far below what Helm can store", func(ctx SpecContext) {
		secrets := &corev1.SecretList{}
		Expect(h.api.List(ctx, secrets, client.InNamespace(namespace), client.MatchingLabels{"owner": "helm"})).To(Succeed())
		Expect(secrets.Items).To(HaveLen(1))
		size := len(secrets.Items[0].Data["release"])
		AddReportEntry("size of Helm's release in bytes", size)
		Expect(size).To(BeNumerically("<", 500_000), "etcd takes objects up to 1 MiB")
	})

	It("passes PodSecurity's level restricted", func(ctx SpecContext) {
		strict := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "strict", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
		Expect(h.api.Create(ctx, strict)).To(Succeed())
		for _, name := range []string{"drayage-manager", "drayage-scheduler"} {
			owner := &appsv1.Deployment{}
			Expect(h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, owner)).To(Succeed())
			pod := &corev1.Pod{ObjectMeta: owner.Spec.Template.ObjectMeta, Spec: owner.Spec.Template.Spec}
			pod.Namespace, pod.Name, pod.Spec.ServiceAccountName = strict.Name, name, "default"
			pod.Spec.DeprecatedServiceAccount = ""
			Eventually(func() error { return h.api.Create(ctx, pod, client.DryRunAll) }).Should(Succeed())
			pod.Spec.HostNetwork = true
			Expect(h.api.Create(ctx, pod, client.DryRunAll)).To(MatchError(ContainSubstring("violates PodSecurity")))
		}
		Expect(h.api.Delete(ctx, strict)).To(Succeed())
	})

	It("runs the sample application beside ordinary pods", func(ctx SpecContext) {
		out, err := kubectl(ctx, "--namespace", team, "apply", "--server-side", "-k", filepath.Join(repository(), "config", "samples"))
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(ContainSubstring("deployment.apps.drayage.dev/"))
		Eventually(running(ctx, "myapp")).Should(HaveLen(3))
		for _, m := range h.machines {
			Expect(m.slotProcesses()).NotTo(BeEmpty())
			Expect(m.kubeletProcesses()).NotTo(ContainElements(m.slotProcesses()))
		}
		pod := running(ctx, "myapp")()[0]
		Expect(pod.Spec.Volumes).To(ContainElement(HaveField("Name", HavePrefix("kube-api-access"))))

		By("giving logs and running commands, from either machine, by the command of bare machines")
		for _, m := range h.machines {
			name := m.podOf(ctx, "myapp").Name
			Eventually(func() (string, error) { return h.run(ctx, "dray", "logs", name, "--namespace", team) }).Should(ContainSubstring("serves on"))
			Expect(h.run(ctx, "dray", "exec", name, "--namespace", team, "--", "hostname")).To(Equal(name + "\n"))
		}

		By("answering through the aggregated API, by the host's RBAC")
		path := "/apis/subresources.drayage.dev/v1alpha1/namespaces/" + team + "/pods/" + pod.Name + "/log"
		Eventually(func() (string, error) { return kubectl(ctx, "get", "--raw="+path) }).Should(ContainSubstring("serves on"))
		_, err = kubectl(ctx, "get", "--raw="+path, "--as=somebody")
		Expect(err).To(MatchError(ContainSubstring(`User "somebody" cannot get resource "pods/log" in API group "subresources.drayage.dev"`)))
	}, SpecTimeout(3*time.Minute))

	It("refuses bad input in upstream's words", func(ctx SpecContext) {
		manifest := h.write("bad.yaml", []byte(`
apiVersion: apps.drayage.dev/v1
kind: Deployment
metadata: {name: bad}
spec:
  selector: {matchLabels: {app: bad}}
  template:
    metadata: {labels: {app: bad}}
    spec:
      containers:
      - {name: web, image: web, volumeMounts: [{name: nowhere, mountPath: /data}]}
      - {name: web, image: web}
`))
		_, err := kubectl(ctx, "--namespace", team, "apply", "-f", manifest)
		Expect(err).To(MatchError(And(
			ContainSubstring(`spec.template.spec.containers[0].volumeMounts[0].name: Not found: "nowhere"`),
			ContainSubstring(`spec.template.spec.containers[1].name: Duplicate value: "web"`))))
	})
}

// install installs the chart with the image of the local registry.
func (h *host) install(ctx context.Context, helm string) {
	GinkgoHelper()
	Expect(h.run(ctx, helm, "install", "drayage", chart, "--namespace", namespace, "--create-namespace", "--wait", "--timeout", "4m",
		"--set", "network.nodeCIDRMaskSize=26", "--set", `network.stubDomains.corp\.example={`+outsideIP+`:5353}`,
		"--set", "image.repository="+product, "--set", "image.tag="+first)).Error().NotTo(HaveOccurred())
	Eventually(func() error { return h.get("/apis/subresources.drayage.dev/v1alpha1") }).Should(Succeed())
}

// rolledOut waits until what a workload of the host says runs.
func rolledOut(ctx context.Context, namespace, workload string) {
	GinkgoHelper()
	Expect(kubectl(ctx, "rollout", "status", "--namespace", namespace, workload, "--timeout=2m")).Error().NotTo(HaveOccurred())
}

// service returns the address of a Service of the host.
func (h *host) service(ctx context.Context, namespace, name string) string {
	GinkgoHelper()
	service := &corev1.Service{}
	Expect(h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, service)).To(Succeed())
	return service.Spec.ClusterIP
}

// newDeployment returns one of Drayage, of one pod.
func newDeployment(name string) *dappsv1.Deployment {
	d := &dappsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	d.Spec.Template.Labels = d.Spec.Selector.MatchLabels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: "my-app:1.0"}}
	return d
}

// pods returns Drayage's pods of an application.
func pods(ctx context.Context, app string) []dcorev1.Pod {
	list := &dcorev1.PodList{}
	if err := h.api.List(ctx, list, client.InNamespace(team), client.MatchingLabels{"app": app}); err != nil {
		return nil
	}
	return list.Items
}

// running returns those that are ready.
func running(ctx context.Context, app string) func() []dcorev1.Pod {
	return func() (found []dcorev1.Pod) {
		for _, pod := range pods(ctx, app) {
			if podutil.IsPodReadyConditionTrue(pod.Status.PodStatus) {
				found = append(found, pod)
			}
		}
		return found
	}
}

// nodeReady says why Drayage's node of a name is not ready.
func nodeReady(ctx context.Context, name string) func(Gomega) {
	return func(g Gomega) {
		node := &dcorev1.Node{}
		g.Expect(h.api.Get(ctx, client.ObjectKey{Name: name}, node)).To(Succeed())
		g.Expect(node.Status.Conditions).To(ContainElement(And(
			HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionTrue))), "%v", node.Status.Conditions)
	}
}

// bundles returns whom the API server trusts for the webhooks and the aggregated API.
func bundles(ctx context.Context) []string {
	GinkgoHelper()
	var found []string
	for _, registration := range []struct {
		gvk  schema.GroupVersionKind
		name string
	}{
		{schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"}, "v1alpha1.subresources.drayage.dev"},
		{schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"}, "drayage"},
		{schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration"}, "drayage"},
	} {
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(registration.gvk)
		Expect(h.api.Get(ctx, client.ObjectKey{Name: registration.name}, object)).To(Succeed())
		bundle, _, _ := unstructured.NestedString(object.Object, "spec", "caBundle")
		if hooks, ok, _ := unstructured.NestedSlice(object.Object, "webhooks"); ok {
			bundle, _, _ = unstructured.NestedString(hooks[0].(map[string]any), "clientConfig", "caBundle")
		}
		Expect(bundle).NotTo(BeEmpty())
		found = append(found, bundle)
	}
	return found
}

// gone says whether an object is no more.
func gone(ctx context.Context, object client.Object) func() bool {
	return func() bool { return apierrors.IsNotFound(h.api.Get(ctx, client.ObjectKeyFromObject(object), object)) }
}

// podsOf returns the pods of one of the chart's components, by name.
func podsOf(ctx context.Context, component string) map[string]*corev1.Pod {
	GinkgoHelper()
	list := &corev1.PodList{}
	Expect(h.api.List(ctx, list, client.InNamespace(namespace), client.MatchingLabels{"app.kubernetes.io/component": component})).To(Succeed())
	found := map[string]*corev1.Pod{}
	for i := range list.Items {
		found[list.Items[i].Name] = &list.Items[i]
	}
	return found
}

// podName returns the pod of a lease's holder, who has its name and a random part.
func podName(holder string) string { name, _, _ := strings.Cut(holder, "_"); return name }
