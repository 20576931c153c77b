package replicaset

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("pods whose eviction waits for a replacement", func() {
	now := time.Now()
	pod := func(name string, ready bool, asked time.Duration) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: "node"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if ready {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		}
		if asked > 0 {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: dcorev1.PodEvictionRequested, Status: corev1.ConditionTrue, LastProbeTime: metav1.NewTime(now.Add(-asked)),
			})
		}
		return p
	}
	set := func(replicas, most int32) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{deploymentutil.MaxReplicasAnnotation: fmt.Sprint(most)}},
			Spec:       appsv1.ReplicaSetSpec{Replicas: ptr.To(replicas)},
		}
	}

	It("get one more pod each, as far as the Deployment may surge", func() {
		one := set(4, 6)
		Expect(surgeFor(one, []*appsv1.ReplicaSet{one}, 1)).To(Equal(1))
		Expect(surgeFor(one, []*appsv1.ReplicaSet{one}, 3)).To(Equal(2))
		By("counting what a rollout under way has taken")
		Expect(surgeFor(one, []*appsv1.ReplicaSet{one, set(1, 6)}, 3)).To(Equal(1))
		Expect(surgeFor(one, []*appsv1.ReplicaSet{one, set(3, 6)}, 3)).To(BeZero())
		By("and never for what is no Deployment's or has no replicas")
		Expect(surgeFor(&appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](4)}}, nil, 1)).To(BeZero())
		Expect(surgeFor(set(0, 6), nil, 1)).To(BeZero())
		seen := observed{set: one, surge: 1, active: []*corev1.Pod{pod("a", true, time.Second), pod("b", true, 0), pod("c", true, 0), pod("d", true, 0)}}
		Expect(seen.surplus()).To(Equal(-1))
	})

	It("count until nobody has asked for two minutes", func() {
		going, staying := leaving([]*corev1.Pod{pod("asked", true, time.Minute), pod("forgotten", true, 3*time.Minute), pod("calm", true, 0)}, now)
		Expect(going).To(ConsistOf(HaveField("Name", "asked")))
		Expect(staying).To(HaveLen(2))
	})

	It("are the first to go of those that serve", func() {
		names := func(count int) (out []string) {
			active := []*corev1.Pod{pod("calm", true, 0), pod("asked", true, time.Second), pod("starting", false, 0)}
			for _, p := range leastNeeded(active, nil, count, now) {
				out = append(out, p.Name)
			}
			return out
		}
		Expect(names(1)).To(Equal([]string{"starting"}))
		Expect(names(2)).To(Equal([]string{"starting", "asked"}))
		Expect(names(3)).To(ConsistOf("starting", "asked", "calm"))
	})
})
