//go:build cluster

package hosted_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

const (
	webhookPort, apiPort = 9443, 8443
	kindNamespace        = "team"
)

var _ = Describe("Drayage as a guest", Ordered, func() {
	var (
		h                    *host
		managers, schedulers []replica
		ran                  = make(chan string, 16)
		chart                = filepath.Join(repository(), "charts", "drayage")
	)

	startComponents := func(ctx context.Context) {
		GinkgoHelper()
		managers = h.replicas(ctx, "drayage-manager", 11, func(ip, dir string) []string {
			return []string{"--bind-address=" + ip, "--metrics-bind-address=" + ip + ":8080", "--health-bind-address=" + ip + ":8081", "--cert-dir=" + dir}
		})
		schedulers = h.replicas(ctx, "drayage-scheduler", 21, func(ip, _ string) []string {
			return []string{"--listen-address=" + ip + ":10251"}
		})
	}
	route := func(ctx context.Context) {
		GinkgoHelper()
		h.endpoints(ctx, "drayage-webhooks", webhookPort, managers)
		h.endpoints(ctx, "drayage-apiserver", apiPort, managers)
	}
	logs := func() string {
		var out strings.Builder
		for _, each := range append(append([]replica{}, managers...), schedulers...) {
			out.WriteString("--- " + each.Name + "\n" + each.Tail(25) + "\n")
		}
		return out.String() + "--- kube-apiserver\n" + h.server.Tail(15)
	}
	kubectl := func(ctx context.Context, args ...string) (string, error) {
		return h.run(ctx, "dray", append([]string{"kubectl"}, args...)...)
	}
	deployment := func(name string) *dappsv1.Deployment {
		d := &dappsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: kindNamespace, Name: name}}
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
		d.Spec.Template.Labels = d.Spec.Selector.MatchLabels
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: "web:1"}}
		return d
	}
	pods := func(ctx context.Context, name string) []dcorev1.Pod {
		list := &dcorev1.PodList{}
		if err := h.api.List(ctx, list, client.InNamespace(kindNamespace), client.MatchingLabels{"app": name}); err != nil {
			return nil
		}
		return list.Items
	}

	BeforeAll(func(ctx SpecContext) {
		h = startHost(ctx)
		running, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); h.runJobs(running, ran) }()
		DeferCleanup(func() { stop(); <-done })
		Expect(h.api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: kindNamespace}})).To(Succeed())
	}, NodeTimeout(3*time.Minute))

	AfterAll(func() {
		if h != nil && h.api != nil && CurrentSpecReport().Failed() {
			GinkgoWriter.Println(logs())
		}
	})

	It("is installed by helm", func(ctx SpecContext) {
		_, err := h.run(ctx, "helm", "install", "drayage", chart, "--namespace", namespace, "--create-namespace")
		Expect(err).NotTo(HaveOccurred())
		startComponents(ctx)
		Eventually(func() error { return h.healthy(ctx, managers) }).Should(Succeed(), logs)
		route(ctx)
		Eventually(func() error { return h.get(ctx, "/apis/subresources.drayage.dev/v1alpha1") }).Should(Succeed(), logs)
		Eventually(func() error { return h.api.Create(ctx, deployment("probe"), client.DryRunAll) }).Should(Succeed(), logs)
	})

	It("keeps its release far below what Helm can store", func(ctx SpecContext) {
		secrets := &corev1.SecretList{}
		Expect(h.api.List(ctx, secrets, client.InNamespace(namespace), client.MatchingLabels{"owner": "helm"})).To(Succeed())
		Expect(secrets.Items).To(HaveLen(1))
		size := len(secrets.Items[0].Data["release"])
		AddReportEntry("size of Helm's release in bytes", size)
		Expect(size).To(BeNumerically("<", 500_000), "etcd takes objects up to 1 MiB")
	})

	It("passes PodSecurity's level restricted", func(ctx SpecContext) {
		_, err := kubectl(ctx, "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
		Expect(err).NotTo(HaveOccurred())
		for _, name := range []string{"drayage-manager", "drayage-scheduler"} {
			owner := &appsv1.Deployment{}
			Expect(h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, owner)).To(Succeed())
			pod := &corev1.Pod{ObjectMeta: owner.Spec.Template.ObjectMeta, Spec: owner.Spec.Template.Spec}
			pod.Namespace, pod.Name = namespace, name
			Expect(h.api.Create(ctx, pod, client.DryRunAll)).To(Succeed())
			pod.Spec.HostNetwork = true
			Expect(h.api.Create(ctx, pod, client.DryRunAll)).NotTo(Succeed(), "the level is enforced")
		}
	})

	It("runs an application's objects through webhooks, controllers and scheduler", func(ctx SpecContext) {
		out, err := kubectl(ctx, "--namespace", kindNamespace, "apply", "--server-side", "-k", filepath.Join(repository(), "config", "samples"))
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(ContainSubstring("deployment.apps.drayage.dev/"))
		Eventually(func() []dcorev1.Pod { return pods(ctx, "myapp") }).Should(HaveLen(3), logs)
		for _, pod := range pods(ctx, "myapp") {
			Expect(pod.Finalizers).To(ContainElement(dcorev1.NodeFinalizer))
			Expect(pod.Spec.Volumes).To(ContainElement(HaveField("Name", HavePrefix("kube-api-access"))))
		}
		Eventually(func(g Gomega) {
			service := &dcorev1.Service{}
			g.Expect(h.api.Get(ctx, client.ObjectKey{Namespace: kindNamespace, Name: "myapp"}, service)).To(Succeed())
			g.Expect(service.Spec.ClusterIP).NotTo(BeEmpty())
		}).Should(Succeed(), logs)

		By("saying why they wait, and binding them when a node is there")
		Eventually(func() string {
			for _, pod := range pods(ctx, "myapp") {
				for _, condition := range pod.Status.Conditions {
					if condition.Type == corev1.PodScheduled {
						return condition.Message
					}
				}
			}
			return ""
		}).Should(ContainSubstring("no nodes available"), logs)
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "n1"}}}
		Expect(h.api.Create(ctx, node)).To(Succeed())
		before := node.DeepCopy()
		capacity := corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"),
			corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		}
		node.Status.Capacity, node.Status.Allocatable = capacity, capacity
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
		Expect(h.api.Status().Patch(ctx, node, client.MergeFrom(before))).To(Succeed())
		Eventually(func(g Gomega) {
			for _, pod := range pods(ctx, "myapp") {
				g.Expect(pod.Spec.NodeName).To(Equal("n1"))
			}
		}).Should(Succeed(), logs)
	})

	It("answers through the aggregated API, by the host's RBAC", func(ctx SpecContext) {
		name := pods(ctx, "myapp")[0].Name
		path := "/apis/subresources.drayage.dev/v1alpha1/namespaces/" + kindNamespace + "/pods/" + name + "/log"
		_, err := kubectl(ctx, "get", "--raw="+path)
		Expect(err).To(MatchError(ContainSubstring(`node "n1" has not reported where its agent listens`)))
		_, err = kubectl(ctx, "get", "--raw="+path, "--as=somebody")
		Expect(err).To(MatchError(ContainSubstring(`User "somebody" cannot get resource "pods/log" in API group "subresources.drayage.dev"`)))
	})

	It("confines agents that are pods to their nodes", func(ctx SpecContext) { agentOf(ctx, h, "n1") })

	It("refuses bad input in upstream's words", func(ctx SpecContext) {
		manifest := filepath.Join(h.dir, "bad.yaml")
		Expect(os.WriteFile(manifest, []byte(`
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
`), 0o600)).To(Succeed())
		_, err := kubectl(ctx, "--namespace", kindNamespace, "apply", "-f", manifest)
		Expect(err).To(MatchError(And(
			ContainSubstring(`spec.template.spec.containers[0].volumeMounts[0].name: Not found: "nowhere"`),
			ContainSubstring(`spec.template.spec.containers[1].name: Duplicate value: "web"`))))
	})

	It("has a successor at work within five seconds of a leader's end", func(ctx SpecContext) {
		for component, replicas := range map[string][]replica{"drayage-manager": managers, "dray-scheduler": schedulers} {
			lease := &coordinationv1.Lease{}
			Expect(h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: component}, lease)).To(Succeed())
			leader := leaderOf(lease, replicas)
			Expect(leader.Kill()).To(Succeed())
			killed := time.Now()
			route(ctx)
			name := "after-" + component
			Expect(h.api.Create(ctx, deployment(name))).To(Succeed(), logs)
			Eventually(func() bool {
				found := pods(ctx, name)
				return len(found) == 1 && found[0].Spec.NodeName != ""
			}).WithTimeout(30*time.Second).WithPolling(20*time.Millisecond).Should(BeTrue(), logs)
			took := time.Since(killed)
			AddReportEntry(component+": time until a successor had acted", took.String())
			Expect(took).To(BeNumerically("<", 5*time.Second))
			Expect(leader.Start()).To(Succeed())
		}
		Eventually(func() error { return h.healthy(ctx, managers) }).Should(Succeed(), logs)
		route(ctx)
	})

	It("keeps what it holds when helm upgrades it", func(ctx SpecContext) {
		before := bundles(ctx, h)
		_, err := h.run(ctx, "helm", "upgrade", "drayage", chart, "--namespace", namespace, "--set", "manager.extraArgs={-v=1}")
		Expect(err).NotTo(HaveOccurred())
		Expect(bundles(ctx, h)).To(Equal(before))
		Expect(h.api.Create(ctx, deployment("upgraded"), client.DryRunAll)).To(Succeed())
	})

	It("refuses its own kinds while nobody admits, and leaves the host's alone", func(ctx SpecContext) {
		for _, manager := range managers {
			Expect(manager.Kill()).To(Succeed())
		}
		err := h.api.Create(ctx, deployment("unadmitted"))
		Expect(err).To(MatchError(And(ContainSubstring(`failed calling webhook "mutate.drayage.dev"`), ContainSubstring("drayage-webhooks."+namespace+".svc"))))
		config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: kindNamespace, Name: "host"}}
		Expect(h.api.Create(ctx, config)).To(Succeed())
		hosts := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: kindNamespace, Name: "host"}}
		hosts.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "host"}}
		hosts.Spec.Template.Labels = hosts.Spec.Selector.MatchLabels
		hosts.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: "web"}}
		Expect(h.api.Create(ctx, hosts)).To(Succeed())

		for _, manager := range managers {
			Expect(manager.Start()).To(Succeed())
		}
		Eventually(func() error { return h.healthy(ctx, managers) }).Should(Succeed(), logs)
	})

	It("is uninstalled clean, keeping the kinds and what is of them", func(ctx SpecContext) {
		// Nothing runs any more when the release's objects are gone: that is the kubelet's part.
		uninstalled := make(chan error, 1)
		go func() {
			_, err := h.run(ctx, "helm", "uninstall", "drayage", "--namespace", namespace)
			uninstalled <- err
		}()
		Eventually(ran).Should(Receive(Equal("drayage-unregister")))
		Eventually(func() bool {
			err := h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "drayage-manager"}, &appsv1.Deployment{})
			return apierrors.IsNotFound(err)
		}).Should(BeTrue())
		for _, each := range append(managers, schedulers...) {
			Expect(each.Stop()).To(Succeed())
		}
		Eventually(ran).Should(Receive(Equal("drayage-release-pods")))
		Eventually(ran).Should(Receive(Equal("drayage-clean-nodes")))
		Eventually(uninstalled).Should(Receive(BeNil()))

		for _, kind := range []string{"apiservices", "mutatingwebhookconfigurations", "validatingwebhookconfigurations", "clusterroles", "clusterrolebindings"} {
			out, err := kubectl(ctx, "get", kind, "-o", "name")
			Expect(err).NotTo(HaveOccurred())
			for _, line := range strings.Split(out, "\n") {
				// Those of the kept kinds are the API server's own.
				if strings.Contains(line, "drayage") && !strings.HasPrefix(line, "apiservice.apiregistration.k8s.io/v1.") && !strings.HasSuffix(line, "networking.drayage.dev") {
					Fail("left behind: " + line)
				}
			}
		}
		Expect(pods(ctx, "myapp")).To(HaveLen(3))
		for _, pod := range pods(ctx, "myapp") {
			Expect(pod.Finalizers).To(BeEmpty())
		}

		By("namespaces can be deleted, those with pods as well")
		Expect(h.api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "another"}})).To(Succeed())
		Expect(h.api.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "another"}})).To(Succeed())
		Eventually(func() bool {
			return apierrors.IsNotFound(h.api.Get(ctx, client.ObjectKey{Name: "another"}, &corev1.Namespace{}))
		}).Should(BeTrue())
	}, SpecTimeout(3*time.Minute))

	It("goes on with what was kept when it is installed again, by Helm 4", func(ctx SpecContext) {
		_, err := h.run(ctx, "helm4", "install", "drayage", chart, "--namespace", namespace)
		Expect(err).NotTo(HaveOccurred())
		startComponents(ctx)
		Eventually(func() error { return h.healthy(ctx, managers) }).Should(Succeed(), logs)
		route(ctx)
		Eventually(func() error { return h.api.Create(ctx, deployment("again"), client.DryRunAll) }).Should(Succeed(), logs)
		_, err = kubectl(ctx, "--namespace", kindNamespace, "scale", "deployments.apps.drayage.dev", "myapp", "--replicas=5")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() []dcorev1.Pod { return pods(ctx, "myapp") }).Should(HaveLen(5), logs)

		before := bundles(ctx, h)
		_, err = h.run(ctx, "helm4", "upgrade", "drayage", chart, "--namespace", namespace, "--set", "manager.extraArgs={-v=1}")
		Expect(err).NotTo(HaveOccurred())
		Expect(bundles(ctx, h)).To(Equal(before))
	})

	It("lets go of a namespace with pods after an uninstallation whose agents were gone first", func(ctx SpecContext) {
		for _, each := range append(managers, schedulers...) {
			Expect(each.Kill()).To(Succeed())
		}
		_, err := h.run(ctx, "helm4", "uninstall", "drayage", "--namespace", namespace)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.api.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: kindNamespace}})).To(Succeed())
		Eventually(func() bool {
			return apierrors.IsNotFound(h.api.Get(ctx, client.ObjectKey{Name: kindNamespace}, &corev1.Namespace{}))
		}).Should(BeTrue(), func() string { out, _ := kubectl(ctx, "get", "ns", kindNamespace, "-o", "yaml"); return out })
	}, SpecTimeout(3*time.Minute))
})

// leaderOf returns the replica that holds the lease, by its process's log: the identity is a host name,
// which all replicas here share, and a random part.
func leaderOf(lease *coordinationv1.Lease, replicas []replica) replica {
	GinkgoHelper()
	for _, each := range replicas {
		if strings.Contains(each.Tail(10_000), "uccessfully acquired lease") {
			return each
		}
	}
	Fail("no replica says that it holds the lease " + lease.Name)
	return replica{}
}

// healthy says whether all replicas of the manager are ready.
func (h *host) healthy(ctx context.Context, managers []replica) error {
	for _, manager := range managers {
		if err := h.ready(ctx, manager.ip+":"+strconv.Itoa(8081)); err != nil {
			return err
		}
	}
	return nil
}

// bundles returns whom the API server trusts for the webhooks and the aggregated API.
func bundles(ctx context.Context, h *host) []string {
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
