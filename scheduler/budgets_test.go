package scheduler_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/scheduler"
)

var _ = Describe("preemption under disruption budgets", func() {
	It("spares what a budget covers, though it is the least important", func(ctx context.Context) {
		DeferCleanup(clean)
		addPriorities(ctx, 1, 10, 100)
		addNode(ctx, "node-1")
		addNode(ctx, "node-2")
		covered := map[string]string{"covered": "yes"}
		low := addPod(ctx, "low", withRequest("3", "1Gi"), withPriority(1), func(p *dcorev1.Pod) { p.Labels = covered })
		budget := &dpolicyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: low.Namespace, Name: "keep"}}
		budget.Spec = policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: covered}}
		Expect(admin.Create(ctx, budget)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(admin.Delete(ctx, budget))).To(Succeed()) })
		budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
		Expect(admin.Status().Update(ctx, budget)).To(Succeed())
		startScheduler(scheduler.Config{})
		nodeOf(ctx, low)
		middle := addPod(ctx, "middle", withRequest("3", "1Gi"), withPriority(10))
		nodeOf(ctx, middle)

		addPod(ctx, "high", withRequest("3", "1Gi"), withPriority(100))
		Eventually(func() bool { return get(ctx, middle).DeletionTimestamp != nil }, patience).Should(BeTrue())
		Expect(get(ctx, low).DeletionTimestamp).To(BeNil())
	})
})
