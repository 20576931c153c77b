//go:build cluster

package hosted_test

import (
	"maps"
	"slices"
	"strconv"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

func specsOfAvailability() {
	DescribeTable("has a successor at work within five seconds of a leader's end", func(ctx SpecContext, component, leaseName string) {
		lease := &coordinationv1.Lease{}
		Expect(h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: leaseName}, lease)).To(Succeed())
		holder := ptr.Deref(lease.Spec.HolderIdentity, "")
		leader := podsOf(ctx, component)[podName(holder)]
		Expect(leader).NotTo(BeNil(), holder)
		for _, pid := range h.machine(leader.Spec.NodeName).podProcesses(leader.UID) {
			if name := nameOf(pid); name == "dray-"+component {
				Expect(kill(pid)).To(Succeed())
			}
		}
		killed := time.Now()
		name := "after-" + component
		// Until the killed one's endpoint is withdrawn, the API server asks it, too.
		Eventually(func() error { return h.api.Create(ctx, newDeployment(name)) }).WithPolling(50 * time.Millisecond).Should(Succeed())
		Eventually(func() bool {
			found := pods(ctx, name)
			return len(found) == 1 && found[0].Spec.NodeName != ""
		}).WithPolling(20 * time.Millisecond).Should(BeTrue())
		took := time.Since(killed)
		AddReportEntry(component+": time until a successor had acted", took.String())
		Expect(took).To(BeNumerically("<", 5*time.Second))
		Expect(h.api.Get(ctx, client.ObjectKeyFromObject(lease), lease)).To(Succeed())
		Expect(ptr.Deref(lease.Spec.HolderIdentity, "")).NotTo(Equal(holder))
		Expect(h.api.Delete(ctx, newDeployment(name))).To(Succeed())
		Eventually(func() []dcorev1.Pod { return pods(ctx, name) }).Should(BeEmpty())
		rolledOut(ctx, namespace, "deployment/drayage-"+component)
	},
		Entry("of managers", NodeTimeout(2*time.Minute), "manager", "drayage-manager"),
		Entry("of schedulers", NodeTimeout(2*time.Minute), "scheduler", "dray-scheduler"),
	)

	It("acknowledges endpoints by any manager, whichever a node reported to", func(ctx SpecContext) {
		at := func(m *machine, manager *corev1.Pod) *rest.RESTClient {
			_, config := m.thief()
			config = withCodec(config)
			config.Host, config.TLSClientConfig = "https://"+manager.Status.PodIP+":8443", rest.TLSClientConfig{Insecure: true}
			caller, err := rest.HTTPClientFor(config)
			Expect(err).NotTo(HaveOccurred())
			c, err := rest.UnversionedRESTClientForConfigAndClient(config, caller)
			Expect(err).NotTo(HaveOccurred())
			return c
		}
		path := func(m *machine) string { return "/apis/subresources.drayage.dev/v1alpha1/nodes/" + m.name + "/applied" }
		asker := h.machines[0]
		ask := func(manager *corev1.Pod, revision, wait string) error {
			return at(asker, manager).Get().AbsPath(path(asker)).Param("revision", revision).Param("wait", wait).Do(ctx).Error()
		}
		managers := slices.Collect(maps.Values(podsOf(ctx, "manager")))
		Expect(managers).To(HaveLen(2))
		for i, to := range managers {
			other := managers[1-i]
			// Beyond every revision that the cluster has.
			revision := strconv.Itoa(1_000_000_000 + i)
			Eventually(func() error { return ask(other, revision, "50ms") }).Should(MatchError(ContainSubstring("not acknowledged by " + asker.name)))
			for _, m := range h.machines {
				Expect(at(m, to).Post().AbsPath(path(m)).Body([]byte(`{"revision":` + revision + `}`)).Do(ctx).Error()).To(Succeed())
			}
			Expect(ask(other, revision, "1s")).To(Succeed(), "asked of %s, reported to %s", other.Name, to.Name)
		}
	}, SpecTimeout(time.Minute))

	It("is upgraded without a restart of what runs", func(ctx SpecContext) {
		before, trusted := containers(ctx, "myapp"), bundles(ctx)
		var ours [][]int
		for _, m := range h.machines {
			ours = append(ours, m.slotProcesses())
		}
		done := h.probing("http://" + h.drayageService(ctx, "myapp") + "/health")
		Expect(h.run(ctx, "helm", "upgrade", "drayage", chart, "--namespace", namespace, "--reset-then-reuse-values", "--set", "image.tag="+second, "--wait", "--timeout", "4m")).
			Error().NotTo(HaveOccurred())
		for _, workload := range []string{"deployment/drayage-manager", "deployment/drayage-scheduler", "daemonset/drayage-agent"} {
			rolledOut(ctx, namespace, workload)
		}
		for i, m := range h.machines {
			Expect(m.agent(ctx).Spec.Containers[0].Image).To(Equal(product + ":" + second))
			Eventually(nodeReady(ctx, m.name)).Should(Succeed())
			Expect(m.slotProcesses()).To(ContainElements(ours[i]))
		}
		done()
		Expect(containers(ctx, "myapp")).To(Equal(before))
		Expect(bundles(ctx)).To(Equal(trusted))
		Expect(h.api.Create(ctx, newDeployment("upgraded"), client.DryRunAll)).To(Succeed())
	}, SpecTimeout(5*time.Minute))

	It("refuses its own kinds while nobody admits, and leaves the host's alone", func(ctx SpecContext) {
		Expect(kubectl(ctx, "--namespace", namespace, "scale", "deployment/drayage-manager", "--replicas=0")).Error().NotTo(HaveOccurred())
		Eventually(func() int { return len(podsOf(ctx, "manager")) }).Should(BeZero())
		Eventually(func() error { return h.api.Create(ctx, newDeployment("unadmitted"), client.DryRunAll) }).
			Should(MatchError(And(ContainSubstring(`failed calling webhook "mutate.drayage.dev"`), ContainSubstring("drayage-webhooks."+namespace+".svc"))))
		config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "host"}}
		Expect(h.api.Create(ctx, config)).To(Succeed())
		hosts := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "host"}}
		hosts.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "host"}}
		hosts.Spec.Template.Labels = hosts.Spec.Selector.MatchLabels
		hosts.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: "my-app:1.0"}}
		Expect(h.api.Create(ctx, hosts)).To(Succeed())
		rolledOut(ctx, team, "deployment/host")
		Expect(h.api.Delete(ctx, hosts)).To(Succeed())

		Expect(kubectl(ctx, "--namespace", namespace, "scale", "deployment/drayage-manager", "--replicas=2")).Error().NotTo(HaveOccurred())
		rolledOut(ctx, namespace, "deployment/drayage-manager")
		Eventually(func() error { return h.api.Create(ctx, newDeployment("admitted"), client.DryRunAll) }).Should(Succeed())
	}, SpecTimeout(3*time.Minute))
}
