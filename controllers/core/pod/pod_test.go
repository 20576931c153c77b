package pod

import (
	"fmt"
	"math/rand"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("excessOf", func() {
	It("takes evicted pods first, then the oldest, and never what still runs", func() {
		start := time.Now()
		make := func(name string, phase corev1.PodPhase, reason string, age int) dcorev1.Pod {
			p := dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(start.Add(-time.Duration(age) * time.Hour))}}
			p.Status.Phase, p.Status.Reason = phase, reason
			return p
		}
		pods := []dcorev1.Pod{
			make("old", corev1.PodSucceeded, "", 5), make("older", corev1.PodFailed, "", 9), make("evicted", corev1.PodFailed, "Evicted", 1),
			make("new", corev1.PodSucceeded, "", 0), make("runs", corev1.PodRunning, "", 99), make("waits", corev1.PodPending, "", 99),
		}
		rand.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
		for bound, want := range map[int][]string{0: {"evicted", "older", "old", "new"}, 2: {"evicted", "older"}, 4: nil, 9: nil} {
			var got []string
			for _, p := range excessOf(pods, bound) {
				got = append(got, p.Name)
			}
			Expect(got).To(Equal(want), fmt.Sprint(bound))
		}
	})
})

var _ = Describe("missing", func() {
	It("counts from the first time that a node was missed, anew after it was back, and forgets", func() {
		clock := clocktesting.NewFakePassiveClock(time.Now())
		m := newMissing(clock, 40*time.Second)
		Expect(m.wait("a")).To(Equal(40 * time.Second))
		clock.SetTime(clock.Now().Add(30 * time.Second))
		Expect(m.wait("a")).To(Equal(10 * time.Second))
		m.forget("a")
		Expect(m.wait("a")).To(Equal(40 * time.Second))
		clock.SetTime(clock.Now().Add(2 * time.Hour))
		m.wait("b")
		Expect(m.nodes).To(HaveLen(1))
	})
})
