package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
)

// evict sends one eviction and returns the API's answer.
func evict(ctx context.Context, as *rest.Config, namespace, name string, options *metav1.DeleteOptions) error {
	GinkgoHelper()
	clientset, err := kubernetes.NewForConfig(as)
	Expect(err).NotTo(HaveOccurred())
	return clientset.PolicyV1().RESTClient().Post().
		AbsPath("/apis/subresources.drayage.dev/v1alpha1/namespaces", namespace, "pods", name, "eviction").
		MaxRetries(0).
		Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, DeleteOptions: options}).
		Do(ctx).Error()
}

// causes are the details of a refusal.
func causes(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return ""
	}
	return fmt.Sprint(status.Status().Details.Causes)
}

var _ = Describe("Evictions", func() {
	var namespace string
	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	// running makes a pod that a node runs, ready or not.
	running := func(ctx context.Context, pod *dcorev1.Pod, ready bool) *dcorev1.Pod {
		GinkgoHelper()
		pod.Labels = map[string]string{"app": "web"}
		pod.Finalizers = []string{dcorev1.NodeFinalizer}
		Expect(admin.Create(ctx, pod)).To(Succeed())
		pod.Status.Phase = corev1.PodRunning
		status := corev1.ConditionFalse
		if ready {
			status = corev1.ConditionTrue
		}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}}
		Expect(admin.Status().Update(ctx, pod)).To(Succeed())
		return pod
	}
	read := func(ctx context.Context, pod *dcorev1.Pod) *dcorev1.Pod {
		GinkgoHelper()
		live := &dcorev1.Pod{}
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(pod), live)).To(Succeed())
		return live
	}
	budget := func(ctx context.Context, name string, status policyv1.PodDisruptionBudgetStatus) *dpolicyv1.PodDisruptionBudget {
		GinkgoHelper()
		b := &dpolicyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		b.Spec.MinAvailable = ptr.To(intstr.FromInt32(1))
		b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		Expect(admin.Create(ctx, b)).To(Succeed())
		b.Status = status
		if status.ObservedGeneration == 0 {
			b.Status.ObservedGeneration = b.Generation
		}
		Expect(admin.Status().Update(ctx, b)).To(Succeed())
		return b
	}
	condition := func(pod *dcorev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
		for i := range pod.Status.Conditions {
			if pod.Status.Conditions[i].Type == kind {
				return &pod.Status.Conditions[i]
			}
		}
		return nil
	}

	It("delete a pod that no budget covers, and say so in a condition", func(ctx context.Context) {
		pod := running(ctx, newPod(namespace, "web", "n1"), true)
		By("not on a dry run")
		Expect(evict(ctx, server.Config, namespace, "web", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})).To(Succeed())
		Expect(read(ctx, pod).ResourceVersion).To(Equal(pod.ResourceVersion))
		By("with the grace period that the request asks for")
		Expect(evict(ctx, server.Config, namespace, "web", &metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](7)})).To(Succeed())
		live := read(ctx, pod)
		Expect(live.DeletionTimestamp).NotTo(BeNil())
		Expect(live.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "7"))
		Expect(*condition(live, corev1.DisruptionTarget)).To(And(
			HaveField("Status", corev1.ConditionTrue), HaveField("Reason", "EvictionByEvictionAPI"), HaveField("Message", "Eviction API: evicting")))
		By("and again where it is on its way already")
		Expect(evict(ctx, server.Config, namespace, "web", nil)).To(Succeed())
		Expect(apierrors.IsNotFound(evict(ctx, server.Config, namespace, "nobody", nil))).To(BeTrue())
	})

	It("honour preconditions", func(ctx context.Context) {
		pod := running(ctx, newPod(namespace, "web", "n1"), true)
		old := "1"
		start := time.Now()
		for _, preconditions := range []metav1.Preconditions{{ResourceVersion: &old}, *metav1.NewUIDPreconditions("other")} {
			err := evict(ctx, server.Config, namespace, "web", &metav1.DeleteOptions{Preconditions: &preconditions})
			Expect(apierrors.IsConflict(err)).To(BeTrue(), "%v", err)
		}
		// To try one of them again and again would take nineteen times half a second.
		Expect(time.Since(start)).To(BeNumerically("<", 9*time.Second), "a precondition that does not hold is not tried again")
		Expect(evict(ctx, server.Config, namespace, "web", &metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{ResourceVersion: &pod.ResourceVersion}, GracePeriodSeconds: ptr.To[int64](3),
		})).To(Succeed())
		Expect(read(ctx, pod).Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "3"))
	})

	It("are refused, with its name, where the budget is spent", func(ctx context.Context) {
		pod := running(ctx, newPod(namespace, "web", "n1"), true)
		b := budget(ctx, "pdb-web", policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1})
		err := evict(ctx, server.Config, namespace, "web", nil)
		Expect(apierrors.IsTooManyRequests(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError("Cannot evict pod as it would violate the pod's disruption budget."))
		Expect(causes(err)).To(ContainSubstring("The disruption budget pdb-web needs 1 healthy pods and has 1 currently"))
		Expect(read(ctx, pod).DeletionTimestamp).To(BeNil())

		By("and while the budget is news, for ten seconds")
		b.Spec.MinAvailable = ptr.To(intstr.FromInt32(2))
		Expect(admin.Update(ctx, b)).To(Succeed())
		err = evict(ctx, server.Config, namespace, "web", nil)
		Expect(causes(err)).To(ContainSubstring("The disruption budget pdb-web is still being processed by the server."))
		seconds, suggested := apierrors.SuggestsClientDelay(err)
		Expect(suggested).To(BeTrue())
		Expect(seconds).To(Equal(10))
	})

	It("of two at once for one disruption, let one through", func(ctx context.Context) {
		for round := range 5 {
			names := []string{fmt.Sprintf("a-%d", round), fmt.Sprintf("b-%d", round)}
			for _, name := range names {
				running(ctx, newPod(namespace, name, "n1"), true)
			}
			b := budget(ctx, fmt.Sprintf("pdb-%d", round), policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2})
			errs := make([]error, 2)
			var wait sync.WaitGroup
			for i, name := range names {
				wait.Go(func() { errs[i] = evict(ctx, server.Config, namespace, name, nil) })
			}
			wait.Wait()
			Expect(errs).To(ConsistOf(BeNil(), Satisfy(apierrors.IsTooManyRequests)))
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(b), b)).To(Succeed())
			Expect(b.Status.DisruptionsAllowed).To(BeZero())
			Expect(b.Status.DisruptedPods).To(HaveLen(1))
			Expect(b.Status.Conditions).To(ContainElement(And(HaveField("Type", "DisruptionAllowed"), HaveField("Status", metav1.ConditionFalse))))
			Expect(admin.Delete(ctx, b)).To(Succeed())
		}
	})

	It("take nothing from the budget for what serves nobody", func(ctx context.Context) {
		spent := budget(ctx, "pdb-web", policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1})
		sick := running(ctx, newPod(namespace, "sick", "n1"), false)
		Expect(evict(ctx, server.Config, namespace, "sick", nil)).To(Succeed(), "enough others are healthy")
		Expect(read(ctx, sick).DeletionTimestamp).NotTo(BeNil())
		pending := newPod(namespace, "pending", "")
		pending.Labels = map[string]string{"app": "web"}
		Expect(admin.Create(ctx, pending)).To(Succeed())
		Expect(evict(ctx, server.Config, namespace, "pending", nil)).To(Succeed())

		By("unless too few are healthy and the budget does not say AlwaysAllow")
		spent.Status.CurrentHealthy = 0
		Expect(admin.Status().Update(ctx, spent)).To(Succeed())
		second := running(ctx, newPod(namespace, "second", "n1"), false)
		Expect(apierrors.IsTooManyRequests(evict(ctx, server.Config, namespace, "second", nil))).To(BeTrue())
		spent.Spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.AlwaysAllow)
		Expect(admin.Update(ctx, spent)).To(Succeed())
		Expect(evict(ctx, server.Config, namespace, "second", nil)).To(Succeed())
		Expect(read(ctx, second).DeletionTimestamp).NotTo(BeNil())
	})

	It("are not possible under two budgets", func(ctx context.Context) {
		running(ctx, newPod(namespace, "web", "n1"), true)
		budget(ctx, "one", policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1})
		budget(ctx, "two", policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1})
		Expect(evict(ctx, server.Config, namespace, "web", nil)).To(
			MatchError("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
	})

	It("are for whoever may create pods/eviction", func(ctx context.Context) {
		running(ctx, newPod(namespace, "web", "n1"), true)
		Expect(apierrors.IsForbidden(evict(ctx, as(server, "stranger"), namespace, "web", nil))).To(BeTrue())
		allow(ctx, admin, "evictor", rbacv1.Subject{Kind: "User", Name: "evictor", APIGroup: rbacv1.GroupName}, rule("create", "pods/eviction"))
		Eventually(func() error { return evict(ctx, as(server, "evictor"), namespace, "web", nil) }).Should(Succeed())
	})

	Describe("of a Deployment that may surge", func() {
		var set *dappsv1.ReplicaSet
		replica := func(ctx context.Context, name string, ready bool) *dcorev1.Pod {
			pod := newPod(namespace, name, "n1")
			pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, dappsv1.GroupVersion.WithKind("ReplicaSet"))}
			return running(ctx, pod, ready)
		}
		BeforeEach(func(ctx context.Context) {
			template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: newPod("", "", "").Spec}
			selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
			deployment := &dappsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"},
				Spec: appsv1.DeploymentSpec{
					Replicas: ptr.To[int32](2), Selector: selector, Template: template,
					Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
						MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
					}},
				},
			}
			Expect(admin.Create(ctx, deployment)).To(Succeed())
			set = &dappsv1.ReplicaSet{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: namespace, Name: "web-1", Annotations: map[string]string{deploymentutil.MaxReplicasAnnotation: "3"},
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(deployment, dappsv1.GroupVersion.WithKind("Deployment"))},
				},
				Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: selector, Template: template},
			}
			Expect(admin.Create(ctx, set)).To(Succeed())
		})

		It("wait for the replacement, one after the other", func(ctx context.Context) {
			first, second := replica(ctx, "first", true), replica(ctx, "second", true)
			for range 2 {
				err := evict(ctx, server.Config, namespace, "first", nil)
				Expect(apierrors.IsTooManyRequests(err)).To(BeTrue(), "%v", err)
				Expect(err).To(MatchError("Cannot evict pod yet: Deployment web may surge, so a replacement has to be ready first."))
			}
			Expect(condition(read(ctx, first), dcorev1.PodEvictionRequested)).NotTo(BeNil())
			err := evict(ctx, server.Config, namespace, "second", nil)
			Expect(apierrors.IsTooManyRequests(err)).To(BeTrue(), "%v", err)
			err = evict(ctx, server.Config, namespace, "second", nil)
			Expect(causes(err)).To(Or(ContainSubstring("the replacements of 1 other pods come first (maxSurge 1)"), ContainSubstring("replicas are available without")))
			Expect(read(ctx, second).DeletionTimestamp).To(BeNil())

			By("a replacement that is not ready is none")
			spare := replica(ctx, "spare", false)
			leaver, waiter := "first", "second"
			err = evict(ctx, server.Config, namespace, leaver, nil)
			Expect(causes(err)).To(ContainSubstring("1 of 2 replicas are available without the pods that leave"))

			By("one that is, is")
			spare.Status.Conditions[0].Status = corev1.ConditionTrue
			Expect(admin.Status().Update(ctx, spare)).To(Succeed())
			Expect(evict(ctx, server.Config, namespace, leaver, nil)).To(Succeed())
			Expect(read(ctx, first).DeletionTimestamp).NotTo(BeNil())
			By("and now it is the next one's turn")
			err = evict(ctx, server.Config, namespace, waiter, nil)
			Expect(causes(err)).To(ContainSubstring("1 of 2 replicas are available without the pods that leave"))
		})

		It("go on at once where pods are missing anyway", func(ctx context.Context) {
			replica(ctx, "first", true)
			replica(ctx, "second", false)
			Expect(evict(ctx, server.Config, namespace, "first", nil)).To(Succeed())
		})

		It("do not surge where the client insists on a version, nor on a dry run", func(ctx context.Context) {
			first := replica(ctx, "first", true)
			replica(ctx, "second", true)
			Expect(evict(ctx, server.Config, namespace, "first", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})).To(Succeed())
			Expect(evict(ctx, server.Config, namespace, "first", &metav1.DeleteOptions{
				Preconditions: &metav1.Preconditions{ResourceVersion: &first.ResourceVersion},
			})).To(Succeed())
		})
	})
})
