package poddisruptionbudget

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/env"
)

var _ = Describe("budgets in an API server", Ordered, func() {
	var api client.Client

	BeforeAll(func(ctx context.Context) {
		e, err := env.Start(context.WithoutCancel(ctx))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		api, err = e.Client()
		Expect(err).NotTo(HaveOccurred())
		// With the manager's own rights.
		manager, err := e.As("drayage:manager")
		Expect(err).NotTo(HaveOccurred())
		mgr, err := ctrl.NewManager(manager, ctrl.Options{
			Scheme: scheme.New(), Logger: logr.Discard(), Metrics: metricsserver.Options{BindAddress: "0"},
			Controller: config.Controller{SkipNameValidation: ptr.To(true), UsePriorityQueue: ptr.To(false)},
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(Add(mgr)).To(Succeed())
		running, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- mgr.Start(running) }()
		DeferCleanup(func() {
			stop()
			Eventually(done).Should(Receive(BeNil()))
		})
	})

	status := func(ctx context.Context, budget *dpolicyv1.PodDisruptionBudget) func(Gomega) policyv1.PodDisruptionBudgetStatus {
		return func(g Gomega) policyv1.PodDisruptionBudgetStatus {
			g.Expect(api.Get(ctx, client.ObjectKeyFromObject(budget), budget)).To(Succeed())
			g.Expect(budget.Status.ObservedGeneration).To(Equal(budget.Generation))
			return budget.Status
		}
	}
	condition := func(kind string, status metav1.ConditionStatus) OmegaMatcher {
		return HaveField("Conditions", ContainElement(And(HaveField("Type", kind), HaveField("Status", status))))
	}

	It("follow pods and their owners, and say what is wrong", func(ctx context.Context) {
		labels := map[string]string{"app": "web"}
		template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}
		budget := &dpolicyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		budget.Spec = policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}}
		Expect(api.Create(ctx, budget)).To(Succeed())
		Eventually(status(ctx, budget)).Should(And(
			HaveField("DisruptionsAllowed", BeZero()), condition(policyv1.DisruptionAllowedCondition, metav1.ConditionFalse), condition("Ready", metav1.ConditionTrue)))

		set := &dappsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		set.Spec = appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}
		Expect(api.Create(ctx, set)).To(Succeed())
		var pods []*dcorev1.Pod
		for _, name := range []string{"web-1", "web-2"} {
			pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: labels,
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, dappsv1.GroupVersion.WithKind("ReplicaSet"))}}, Spec: template.Spec}
			Expect(api.Create(ctx, pod)).To(Succeed())
			pod.Status.Phase = corev1.PodRunning
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			Expect(api.Status().Update(ctx, pod)).To(Succeed())
			pods = append(pods, pod)
		}
		Eventually(status(ctx, budget)).Should(And(
			HaveField("ExpectedPods", int32(2)), HaveField("CurrentHealthy", int32(2)), HaveField("DesiredHealthy", int32(1)),
			HaveField("DisruptionsAllowed", int32(1)), condition(policyv1.DisruptionAllowedCondition, metav1.ConditionTrue)))

		By("an eviction that was granted counts until its pod is gone")
		budget.Status.DisruptionsAllowed, budget.Status.DisruptedPods = 0, map[string]metav1.Time{"web-1": metav1.Now()}
		Expect(api.Status().Update(ctx, budget)).To(Succeed())
		Eventually(status(ctx, budget)).Should(And(HaveField("CurrentHealthy", int32(1)), HaveField("DisruptionsAllowed", BeZero()), HaveField("DisruptedPods", HaveLen(1))))
		Expect(api.Delete(ctx, pods[0])).To(Succeed())
		Eventually(status(ctx, budget)).Should(And(HaveField("CurrentHealthy", int32(1)), HaveField("DisruptedPods", BeEmpty())))

		By("a pod whose owner nobody knows stalls the budget, for as long as it is there")
		lost := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lost", Labels: labels, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "example.com/v1", Kind: "Robot", Name: "r2", UID: "r2", Controller: ptr.To(true)}}}, Spec: template.Spec}
		Expect(api.Create(ctx, lost)).To(Succeed())
		Eventually(status(ctx, budget)).Should(And(condition("Ready", metav1.ConditionFalse), condition("Stalled", metav1.ConditionTrue), HaveField("DisruptionsAllowed", BeZero())))
		Expect(api.Delete(ctx, lost)).To(Succeed())
		Eventually(status(ctx, budget)).Should(And(condition("Ready", metav1.ConditionTrue), Not(condition("Stalled", metav1.ConditionTrue))))
	})
})

var _ = Describe("marks of pods", func() {
	now := time.Now().Truncate(time.Second)
	mark := func(kind corev1.PodConditionType, since, asked time.Duration) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now.Add(-since)), LastProbeTime: metav1.NewTime(now.Add(-asked))}
	}
	clean := func(ctx context.Context, change func(*dcorev1.Pod), marks ...corev1.PodCondition) (*dcorev1.Pod, ctrl.Result) {
		GinkgoHelper()
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Finalizers: []string{dcorev1.NodeFinalizer}}}
		pod.Status.Phase, pod.Status.Conditions = corev1.PodRunning, marks
		change(pod)
		api := ctrlfake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(pod).WithStatusSubresource(pod).Build()
		c := &cleaner{client: api, clock: testingclock.NewFakePassiveClock(now)}
		result, err := c.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
		Expect(err).NotTo(HaveOccurred())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		return pod, result
	}
	is := func(pod *dcorev1.Pod, kind corev1.PodConditionType) corev1.ConditionStatus {
		_, found := podutil.GetPodCondition(&pod.Status.PodStatus, kind)
		return found.Status
	}
	asIs := func(*dcorev1.Pod) {}

	It("are taken back after two minutes", func(ctx context.Context) {
		pod, result := clean(ctx, asIs, mark(corev1.DisruptionTarget, staleAfter, 0), mark(dcorev1.PodEvictionRequested, time.Hour, time.Minute))
		Expect(is(pod, corev1.DisruptionTarget)).To(Equal(corev1.ConditionFalse))
		Expect(is(pod, dcorev1.PodEvictionRequested)).To(Equal(corev1.ConditionTrue), "somebody asked a minute ago")
		Expect(result.RequeueAfter).To(Equal(time.Minute))
		pod, _ = clean(ctx, asIs, mark(dcorev1.PodEvictionRequested, time.Hour, staleAfter))
		Expect(is(pod, dcorev1.PodEvictionRequested)).To(Equal(corev1.ConditionFalse))
	})

	It("stay where the pod goes or has gone, and where its node set them", func(ctx context.Context) {
		old := mark(corev1.DisruptionTarget, time.Hour, 0)
		pod, _ := clean(ctx, func(p *dcorev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }, old)
		Expect(is(pod, corev1.DisruptionTarget)).To(Equal(corev1.ConditionTrue))
		pod, _ = clean(ctx, func(p *dcorev1.Pod) { p.Status.Phase = corev1.PodFailed }, old)
		Expect(is(pod, corev1.DisruptionTarget)).To(Equal(corev1.ConditionTrue))
		old.Reason = corev1.PodReasonTerminationByKubelet
		pod, _ = clean(ctx, asIs, old)
		Expect(is(pod, corev1.DisruptionTarget)).To(Equal(corev1.ConditionTrue))
	})
})
