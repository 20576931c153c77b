package apps_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("a ReplicaSet", func() {
	var namespace string

	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	It("makes its pods, reports them and tells of them", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 3)
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status", And(
			HaveField("Replicas", int32(3)), HaveField("ReadyReplicas", int32(3)), HaveField("AvailableReplicas", int32(3)),
			HaveField("FullyLabeledReplicas", int32(3)), HaveField("ObservedGeneration", set.Generation),
			HaveField("TerminatingReplicas", HaveValue(Equal(int32(0)))),
			HaveField("Selector", "app=web"), HaveField("Summary.Ready", int32(3)),
		)))
		pods := activePods(ctx, namespace)
		Expect(pods).To(HaveLen(3))
		for _, pod := range pods {
			Expect(metav1.IsControlledBy(&pod, set)).To(BeTrue())
			Expect(pod.Name).To(HavePrefix("web-"))
			Expect(pod.Finalizers).To(ConsistOf(dcorev1.NodeFinalizer))
		}
		Eventually(func(ctx context.Context) ([]corev1.Event, error) {
			var events corev1.EventList
			err := api.List(ctx, &events, client.InNamespace(namespace))
			return events.Items, err
		}).WithContext(ctx).Should(ContainElement(And(
			HaveField("InvolvedObject.APIVersion", "apps.drayage.dev/v1"), HaveField("InvolvedObject.Kind", "ReplicaSet"),
			HaveField("Reason", "SuccessfulCreate"), HaveField("Message", "Created pod: "+pods[0].Name))))
	})

	It("scales both ways through the scale subresource", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 1)
		Expect(api.Create(ctx, set)).To(Succeed())
		for _, replicas := range []int32{4, 2, 0} {
			scale := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
			Expect(api.SubResource("scale").Update(ctx, set, client.WithSubResourceBody(scale))).To(Succeed())
			Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status", And(
				HaveField("Replicas", replicas), HaveField("ReadyReplicas", replicas))))
		}
	})

	It("replaces a pod that is deleted before that one has ended, and counts it as terminating", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 2)
		// This finalizer is nobody's, so the pod stays.
		set.Spec.Template.Finalizers = []string{"test.drayage.dev/stay"}
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(2)))
		pod := activePods(ctx, namespace)[0]
		hold := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod.Name}}
		Expect(api.Delete(ctx, hold)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(2)))
		Eventually(func(ctx context.Context) []dcorev1.Pod { return activePods(ctx, namespace) }).WithContext(ctx).Should(
			And(HaveLen(2), Not(ContainElement(HaveField("Name", pod.Name)))))
	})

	It("adopts a matching orphan and releases a pod whose labels move away", func(ctx context.Context) {
		orphan := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "orphan", Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: "other"}},
		}, Spec: replicaSet(namespace, "web", 1).Spec.Template.Spec}
		// The garbage collector would take a pod whose only owner does not exist.
		owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "other"}}
		Expect(api.Create(ctx, owner)).To(Succeed())
		orphan.OwnerReferences[0].UID = owner.UID
		Expect(api.Create(ctx, orphan)).To(Succeed())
		known(ctx, orphan)

		set := replicaSet(namespace, "web", 2)
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(2)))
		Expect(activePods(ctx, namespace)).To(HaveLen(2))
		Expect(api.Get(ctx, client.ObjectKeyFromObject(orphan), orphan)).To(Succeed())
		Expect(metav1.IsControlledBy(orphan, set)).To(BeTrue())
		Expect(orphan.OwnerReferences).To(HaveLen(2), "the other owner stays")

		edit(ctx, orphan, func(pod *dcorev1.Pod) { pod.Labels["app"] = "debug" })
		Eventually(reading(orphan)).WithContext(ctx).Should(WithTransform(
			func(pod *dcorev1.Pod) any { return metav1.GetControllerOf(pod) }, BeNil()))
		Eventually(func(ctx context.Context) []dcorev1.Pod { return activePods(ctx, namespace) }).WithContext(ctx).Should(HaveLen(3))
	})

	It("leaves its pods running when it is deleted as an orphan maker, and the next one takes them over", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 2)
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(2)))
		before := activePods(ctx, namespace)
		Expect(api.Delete(ctx, set, client.PropagationPolicy(metav1.DeletePropagationOrphan))).To(Succeed())
		Eventually(func(ctx context.Context) bool {
			return apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(set), set))
		}).WithContext(ctx).Should(BeTrue())
		Expect(names(activePods(ctx, namespace))).To(ConsistOf(names(before)))
		known(ctx, &before[0], &before[1])

		next := replicaSet(namespace, "web", 2)
		Expect(api.Create(ctx, next)).To(Succeed())
		Eventually(reading(next)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(2)))
		Expect(names(activePods(ctx, namespace))).To(ConsistOf(names(before)))
	})

	It("takes its pods along when it is deleted", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 2)
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(2)))
		Expect(api.Delete(ctx, set, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
		Eventually(func(ctx context.Context) []dcorev1.Pod { return activePods(ctx, namespace) }).WithContext(ctx).Should(BeEmpty())
	})

	It("deletes the pod of the lowest deletion cost first", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 3)
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(3)))
		pods := activePods(ctx, namespace)
		cheap := &pods[1]
		edit(ctx, cheap, func(pod *dcorev1.Pod) {
			pod.Annotations = map[string]string{corev1.PodDeletionCost: "-10"}
		})
		known(ctx, cheap)
		edit(ctx, set, func(set *dappsv1.ReplicaSet) { set.Spec.Replicas = ptr.To[int32](2) })
		Eventually(func(ctx context.Context) []string { return names(activePods(ctx, namespace)) }).WithContext(ctx).Should(
			And(HaveLen(2), Not(ContainElement(cheap.Name))))
	})

	It("counts a pod as available minReadySeconds after it became ready", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 1)
		set.Spec.MinReadySeconds = 2
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.AvailableReplicas", int32(1)))
		since := activePods(ctx, namespace)[0].Status.Conditions[0].LastTransitionTime.Time
		Expect(time.Since(since)).To(BeNumerically(">=", 2*time.Second))
	})

	It("says why pods cannot be created, asks once per pass, and recovers", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 5)
		set.Spec.Template.Spec.PriorityClassName = "missing"
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.Conditions", ContainElement(And(
			HaveField("Type", appsv1.ReplicaSetReplicaFailure), HaveField("Status", corev1.ConditionTrue),
			HaveField("Reason", "FailedCreate"), HaveField("Message", ContainSubstring("missing"))))))
		edit(ctx, set, func(set *dappsv1.ReplicaSet) { set.Spec.Template.Spec.PriorityClassName = "" })
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status", And(
			HaveField("ReadyReplicas", int32(5)), HaveField("Conditions", ConsistOf(And(
				HaveField("Type", dappsv1.ReplicaSetReady), HaveField("Status", corev1.ConditionTrue)))))))
	})

	It("has pods whose managed fields one patch ends for good", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 1)
		set.Spec.Template.Spec.Containers[0].Image = "bad:1"
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(func(ctx context.Context) []dcorev1.Pod { return activePods(ctx, namespace) }).WithContext(ctx).Should(HaveLen(1))
		pod := &activePods(ctx, namespace)[0]
		// As the scheduler's binding does.
		Expect(api.Patch(ctx, pod, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"managedFields":[{}]}}`)))).To(Succeed())
		Expect(pod.ManagedFields).To(BeEmpty())
		edit(ctx, pod, func(pod *dcorev1.Pod) { pod.Annotations = map[string]string{"touched": "yes"} })
		Expect(pod.ManagedFields).To(BeEmpty())
	})

	It("makes a hundred pods fast", func(ctx context.Context) {
		began := time.Now()
		set := replicaSet(namespace, "web", 100)
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.Replicas", int32(100)))
		AddReportEntry("100 pods created", time.Since(began).String())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(100)))
		AddReportEntry("100 pods ready", time.Since(began).String())
		Consistently(func(ctx context.Context) []dcorev1.Pod { return activePods(ctx, namespace) }).WithContext(ctx).Should(HaveLen(100))
	})

	It("deletes of what matters least: pods that are not ready go before those that are", func(ctx context.Context) {
		set := replicaSet(namespace, "web", 2)
		Expect(api.Create(ctx, set)).To(Succeed())
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.ReadyReplicas", int32(2)))
		good := names(activePods(ctx, namespace))
		edit(ctx, set, func(set *dappsv1.ReplicaSet) {
			set.Spec.Template.Spec.Containers[0].Image = "bad:1"
			set.Spec.Replicas = ptr.To[int32](4)
		})
		Eventually(reading(set)).WithContext(ctx).Should(HaveField("Status.Replicas", int32(4)))
		edit(ctx, set, func(set *dappsv1.ReplicaSet) { set.Spec.Replicas = ptr.To[int32](2) })
		Eventually(func(ctx context.Context) []string { return names(activePods(ctx, namespace)) }).WithContext(ctx).Should(ConsistOf(good))
	})
})

func names(pods []dcorev1.Pod) []string {
	var names []string
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	return names
}
