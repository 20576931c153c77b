package scheduler_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/scheduler"
)

var _ = Describe("binding", func() {
	BeforeEach(func() { DeferCleanup(clean) })

	It("gives a pod a node, says so, and leaves the rest of the status alone", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		addNode(ctx, "node-1", withNodeLabel(corev1.LabelTopologyZone, "west"))
		pod := addPod(ctx, "web")
		Expect(nodeOf(ctx, pod)).To(Equal("node-1"))

		Eventually(func(g Gomega) {
			live := get(ctx, pod)
			condition := scheduledCondition(live)
			g.Expect(condition).NotTo(BeNil())
			g.Expect(condition.Status).To(Equal(corev1.ConditionTrue))
			g.Expect(condition.LastTransitionTime.IsZero()).To(BeFalse())
			g.Expect(live.Status.Conditions).To(HaveLen(1))
		}, patience).Should(Succeed())
		live := get(ctx, pod)
		Expect(live.Status.Phase).To(Equal(corev1.PodPending))
		Expect(live.Status.Summary).To(Equal(dcorev1.PodSummary{Status: "Pending", Restarts: "0"}))
		Expect(live.Finalizers).To(ConsistOf(dcorev1.NodeFinalizer))
		Expect(live.Labels).To(HaveKeyWithValue(corev1.LabelTopologyZone, "west"))
		Expect(live.ManagedFields).NotTo(BeEmpty(), "a person's pod keeps its field owners")

		Eventually(func(g Gomega) {
			events := eventsOf(ctx, pod, "Scheduled")
			g.Expect(events).To(HaveLen(1))
			g.Expect(events[0].Note).To(Equal("Successfully assigned default/web to node-1"))
			g.Expect(events[0].Regarding.APIVersion).To(Equal("core.drayage.dev/v1"))
			g.Expect(events[0].Regarding.Kind).To(Equal("Pod"))
			g.Expect(events[0].ReportingController).To(Equal("default-scheduler"))
		}, patience).Should(Succeed())

		live.Spec.NodeName = "node-2"
		Expect(apierrors.IsInvalid(admin.Update(ctx, live))).To(BeTrue(), "a node name never changes")
	})

	It("ends the tracking of fields on a controller's pod", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		addNode(ctx, "node-1")
		owner := addReplicaSet(ctx, "web", map[string]string{"app": "web"})
		pod := addPod(ctx, "web", withOwner(owner, dappsv1.GroupVersion.String(), "ReplicaSet"))
		nodeOf(ctx, pod)
		Eventually(func() *corev1.PodCondition { return scheduledCondition(get(ctx, pod)) }, patience).ShouldNot(BeNil())
		Expect(get(ctx, pod).ManagedFields).To(BeEmpty())
		Expect(get(ctx, pod).OwnerReferences[0].APIVersion).To(Equal("apps.drayage.dev/v1"))
	})

	It("reports a pod as scheduled that was created with a node", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		pod := addPod(ctx, "web", func(p *dcorev1.Pod) { p.Spec.NodeName = "elsewhere" })
		Eventually(func(g Gomega) {
			condition := scheduledCondition(get(ctx, pod))
			g.Expect(condition).NotTo(BeNil())
			g.Expect(condition.Status).To(Equal(corev1.ConditionTrue))
		}, patience).Should(Succeed())
	})

	It("spreads identical pods over equal nodes", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		for i := range 3 {
			addNode(ctx, fmt.Sprintf("node-%d", i))
		}
		count := map[string]int{}
		for i := range 9 {
			count[nodeOf(ctx, addPod(ctx, fmt.Sprintf("web-%d", i), withRequest("100m", "100Mi")))]++
		}
		Expect(count).To(Equal(map[string]int{"node-0": 3, "node-1": 3, "node-2": 3}))
	})

	It("leaves pods of other schedulers alone", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		addNode(ctx, "node-1")
		other := addPod(ctx, "other", func(p *dcorev1.Pod) { p.Spec.SchedulerName = "mine" })
		nodeOf(ctx, addPod(ctx, "web"))
		Consistently(func() dcorev1.PodStatus { return get(ctx, other).Status }, time.Second).
			Should(HaveField("Conditions", BeEmpty()))
	})

	It("does not count pods that have ended", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		addNode(ctx, "node-1")
		first := addPod(ctx, "first", withRequest("3", "1Gi"))
		nodeOf(ctx, first)
		second := addPod(ctx, "second", withRequest("3", "1Gi"))
		Expect(refusal(ctx, second)).To(ContainSubstring("Insufficient cpu"))

		done := client.RawPatch("application/merge-patch+json", []byte(`{"status":{"phase":"Succeeded"}}`))
		Expect(admin.Status().Patch(ctx, first, done)).To(Succeed())
		Expect(nodeOf(ctx, second)).To(Equal("node-1"))
		Eventually(func() corev1.ConditionStatus { return scheduledCondition(get(ctx, second)).Status }, patience).
			Should(Equal(corev1.ConditionTrue))
	})

	It("waits for scheduling gates", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		addNode(ctx, "node-1")
		pod := addPod(ctx, "web", func(p *dcorev1.Pod) {
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/quota"}}
		})
		nodeOf(ctx, addPod(ctx, "other"))
		Expect(get(ctx, pod).Spec.NodeName).To(BeEmpty())

		open := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"schedulingGates":null}}`))
		Expect(admin.Patch(ctx, pod, open)).To(Succeed())
		Expect(nodeOf(ctx, pod)).To(Equal("node-1"))
	})

	It("runs a third party's plugin, and outlives a node that goes between decision and binding", func(ctx context.Context) {
		said := watchRefusals(ctx)
		gone := &nodeThief{}
		startScheduler(scheduler.Config{Configuration: withPreBind(nodeThiefName)},
			scheduler.WithPlugin(nodeThiefName, func(_ context.Context, _ runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
				gone.handle = handle
				return gone, nil
			}))
		addNode(ctx, "node-1")
		pod := addPod(ctx, "web")
		Eventually(func() bool { return gone.stole() != "" }, patience).Should(BeTrue())
		// The next attempt, a second later, finds that there are no nodes.
		Eventually(said, patience).Should(ContainElement(ContainSubstring("its node has gone")))
		Expect(get(ctx, pod).Spec.NodeName).To(BeEmpty())

		addNode(ctx, "node-2")
		Expect(nodeOf(ctx, pod)).To(Equal("node-2"))
	})

	It("binds a pod that others have written to meanwhile, and keeps what they wrote", func(ctx context.Context) {
		slow := make(chan struct{})
		startScheduler(scheduler.Config{Configuration: withPreBind("Slow")},
			scheduler.WithPlugin("Slow", func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
				return pause{slow}, nil
			}))
		addNode(ctx, "node-1")
		pod := addPod(ctx, "web")
		slow <- struct{}{} // the decision is made
		condition := client.RawPatch("application/merge-patch+json",
			[]byte(`{"status":{"conditions":[{"type":"example.com/warm","status":"True"}]}}`))
		Expect(admin.Status().Patch(ctx, pod, condition)).To(Succeed())
		label := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"team":"shop"}}}`))
		Expect(admin.Patch(ctx, pod, label)).To(Succeed())
		slow <- struct{}{} // the binding goes on
		Expect(nodeOf(ctx, pod)).To(Equal("node-1"))
		Eventually(func() *corev1.PodCondition { return scheduledCondition(get(ctx, pod)) }, patience).ShouldNot(BeNil())
		live := get(ctx, pod)
		Expect(live.Labels).To(HaveKeyWithValue("team", "shop"))
		Expect(live.Status.Conditions).To(ContainElement(HaveField("Type", corev1.PodConditionType("example.com/warm"))))
	})

	It("judges the pod that is, not the one that was seen last", func(ctx context.Context) {
		node, other := addNode(ctx, "node-1"), addNode(ctx, "node-2")
		seen := addPod(ctx, "web")
		touch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"team":"shop"}}}`))
		Expect(admin.Patch(ctx, seen.DeepCopy(), touch)).To(Succeed())
		Expect(scheduler.BindFrom(ctx, identity, seen, node)).To(Succeed(), "a change of labels is no obstacle")
		Expect(get(ctx, seen).Labels).To(HaveKeyWithValue("team", "shop"))
		Expect(scheduler.BindFrom(ctx, identity, seen, node)).To(Succeed(), "the answer to the first was lost")
		Expect(scheduler.BindFrom(ctx, identity, seen, other)).To(MatchError(ContainSubstring(`already assigned to node "node-1"`)))
		Expect(get(ctx, seen).Spec.NodeName).To(Equal("node-1"))

		leaving := addPod(ctx, "leaving")
		Expect(admin.Delete(ctx, leaving.DeepCopy())).To(Succeed())
		Expect(scheduler.BindFrom(ctx, identity, leaving, node)).To(MatchError(ContainSubstring("is being deleted")))

		first := addPod(ctx, "replaced")
		end(ctx, first.DeepCopy())
		second := addPod(ctx, "replaced")
		Expect(scheduler.BindFrom(ctx, identity, first, node)).To(MatchError(ContainSubstring("the pod was replaced")))
		Expect(get(ctx, second).Spec.NodeName).To(BeEmpty())
	})

	It("binds nothing that is being deleted", func(ctx context.Context) {
		slow := make(chan struct{})
		startScheduler(scheduler.Config{Configuration: withPreBind("Slow")},
			scheduler.WithPlugin("Slow", func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
				return pause{slow}, nil
			}))
		addNode(ctx, "node-1")
		pod := addPod(ctx, "web")
		slow <- struct{}{} // the decision is made
		Expect(admin.Delete(ctx, pod)).To(Succeed())
		slow <- struct{}{} // the binding goes on
		Consistently(func() string { return get(ctx, pod).Spec.NodeName }, time.Second).Should(BeEmpty())
	})
})

func addReplicaSet(ctx context.Context, name string, labels map[string]string) *dappsv1.ReplicaSet {
	GinkgoHelper()
	set := &dappsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	set.Spec.Template.Labels = labels
	set.Spec.Template.Spec = newPod("").Spec
	Expect(admin.Create(ctx, set)).To(Succeed())
	known(set)
	return set
}

func withPreBind(plugin string) *schedulerconfig.KubeSchedulerConfiguration {
	GinkgoHelper()
	configuration, err := latest.Default()
	Expect(err).NotTo(HaveOccurred())
	enabled := &configuration.Profiles[0].Plugins.PreBind.Enabled
	*enabled = append(*enabled, schedulerconfig.Plugin{Name: plugin})
	return configuration
}
