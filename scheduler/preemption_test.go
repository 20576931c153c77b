package scheduler_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dcorev1 "drayage.dev/apis/core/v1"
	dschedulingv1 "drayage.dev/apis/scheduling/v1"
	"drayage.dev/scheduler"
)

func resourceOf(quantity string) *resource.Quantity {
	q := resource.MustParse(quantity)
	return &q
}

var _ = Describe("preemption", func() {
	BeforeEach(func(ctx context.Context) {
		DeferCleanup(clean)
		addPriorities(ctx, 1, 5, 10, 100)
		startScheduler(scheduler.Config{})
	})

	It("ends the least important pod gracefully, holds its place, and takes it", func(ctx context.Context) {
		addNode(ctx, "node-1")
		low := addPod(ctx, "low", withRequest("2", "1Gi"), withPriority(1))
		middle := addPod(ctx, "middle", withRequest("2", "1Gi"), withPriority(10))
		nodeOf(ctx, low)
		nodeOf(ctx, middle)

		high := addPod(ctx, "high", withRequest("2", "1Gi"), withPriority(100))
		Eventually(func() string { return get(ctx, high).Status.NominatedNodeName }, patience).Should(Equal("node-1"))
		Eventually(func() bool { return get(ctx, low).DeletionTimestamp != nil }, patience).Should(BeTrue())
		victim := get(ctx, low)
		Expect(victim.Status.Conditions).To(ContainElement(And(
			HaveField("Type", corev1.DisruptionTarget),
			HaveField("Status", corev1.ConditionTrue),
			HaveField("Reason", corev1.PodReasonPreemptionByScheduler),
		)))
		Expect(victim.Finalizers).To(ConsistOf(dcorev1.NodeFinalizer), "its agent ends it, nobody else")
		Expect(get(ctx, middle).DeletionTimestamp).To(BeNil())

		// Nothing of less importance slips into the place that becomes free.
		late := addPod(ctx, "late", withRequest("2", "1Gi"), withPriority(5))
		refusal(ctx, late)
		Consistently(func() string { return get(ctx, high).Spec.NodeName }, time.Second).Should(BeEmpty())
		end(ctx, victim)
		Expect(nodeOf(ctx, high)).To(Equal("node-1"))
		Eventually(func(g Gomega) {
			live := get(ctx, high)
			g.Expect(live.Status.NominatedNodeName).To(BeEmpty())
			g.Expect(scheduledCondition(live).Status).To(Equal(corev1.ConditionTrue))
		}, patience).Should(Succeed())
		Expect(get(ctx, late).Spec.NodeName).To(BeEmpty())
		Eventually(func() int { return len(eventsOf(ctx, low, "Preempted")) }, patience).Should(Equal(1))
	})

	It("never ends pods for one that asks for no preemption", func(ctx context.Context) {
		addNode(ctx, "node-1")
		low := addPod(ctx, "low", withRequest("3", "1Gi"), withPriority(1))
		nodeOf(ctx, low)
		never := corev1.PreemptNever
		class := &dschedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: "polite"}, Value: 100, PreemptionPolicy: &never,
		}
		Expect(admin.Create(ctx, class)).To(Succeed())
		high := addPod(ctx, "high", withRequest("3", "1Gi"), func(p *dcorev1.Pod) { p.Spec.PriorityClassName = "polite" })
		Expect(refusal(ctx, high)).To(ContainSubstring("Insufficient cpu"))
		Expect(get(ctx, low).DeletionTimestamp).To(BeNil())
	})
})
