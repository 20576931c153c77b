package apiserver

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
)

var _ = Describe("A fleet whose pods are to be evicted", func() {
	now := time.Now().Truncate(time.Second)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "web"}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](4)}}
	made := 0
	pod := func(age time.Duration, ready bool) dcorev1.Pod {
		made++
		p := dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("pod-%02d", made), UID: types.UID(fmt.Sprint(made)), CreationTimestamp: metav1.NewTime(now.Add(-age)),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, dappsv1.GroupVersion.WithKind("ReplicaSet"))},
		}}
		p.Status.Phase = corev1.PodRunning
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-age))}}
		}
		return p
	}
	asked := func(p dcorev1.Pod, first, last time.Duration) dcorev1.Pod {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type: dcorev1.PodEvictionRequested, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now.Add(-first)), LastProbeTime: metav1.NewTime(now.Add(-last)),
		})
		return p
	}
	judge := func(maxSurge, of int, pods ...dcorev1.Pod) verdict {
		v, _ := newFleet(set, pods, maxSurge, now).judge(upstream.Pod(&pods[of]))
		return v
	}

	It("lets as many go as have replacements, the first first", func() {
		a, b := asked(pod(time.Hour, true), 30*time.Second, time.Second), asked(pod(time.Hour, true), 20*time.Second, time.Second)
		c, d := pod(time.Hour, true), pod(time.Hour, true)
		Expect(judge(1, 2, a, b, c, d)).To(Equal(asks), "c is not marked yet")
		for _, surge := range []int{1, 2} {
			Expect(judge(surge, 0, a, b, c, d)).To(Equal(waits))
			Expect(judge(surge, 1, a, b, c, d)).To(Equal(waits))
		}
		spare := pod(time.Minute, true)
		Expect(judge(1, 0, a, b, c, d, spare)).To(Equal(goOn))
		Expect(judge(1, 1, a, b, c, d, spare)).To(Equal(waits))
		Expect(judge(2, 0, a, b, c, d, spare)).To(Equal(waits), "both may go together once both have replacements")
		Expect(judge(2, 1, a, b, c, d, spare, pod(0, true))).To(Equal(goOn))
		Expect(judge(2, 1, a, b, c, d, spare, pod(0, false))).To(Equal(waits))
	})

	It("waits for what is under way, and no longer", func() {
		a := asked(pod(time.Hour, true), surgeTimeout+time.Minute, time.Second)
		rest := []dcorev1.Pod{a, pod(time.Hour, true), pod(time.Hour, true), pod(time.Hour, true)}
		Expect(judge(1, 0, rest...)).To(Equal(goOn), "nobody made a replacement")
		Expect(judge(1, 0, append(rest, pod(time.Minute, false))...)).To(Equal(waits), "one was made a minute ago")
		Expect(judge(1, 0, append(rest, pod(surgeTimeout+time.Second, false))...)).To(Equal(goOn), "it does not become ready")
	})

	It("notes now and then that the eviction is wanted still", func() {
		rest := []dcorev1.Pod{pod(time.Hour, true), pod(time.Hour, true), pod(time.Hour, true)}
		Expect(judge(1, 0, append([]dcorev1.Pod{asked(pod(time.Hour, true), time.Minute, time.Minute)}, rest...)...)).To(Equal(asks))
		Expect(judge(1, 0, append([]dcorev1.Pod{asked(pod(time.Hour, true), time.Hour, 3*time.Minute)}, rest...)...)).To(Equal(asks), "a mark that ran out is a new one")
	})

	It("does not wait where it is short of pods, or has one too many", func() {
		three := []dcorev1.Pod{pod(time.Hour, true), pod(time.Hour, true), pod(time.Hour, true)}
		Expect(judge(1, 0, append(three, pod(0, false))...)).To(Equal(goOn))
		Expect(judge(1, 0, append(three, pod(time.Hour, true), pod(time.Hour, true))...)).To(Equal(goOn))
	})
})
