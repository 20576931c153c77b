package applied

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	dcorev1 "drayage.dev/apis/core/v1"
)

func node(name string, ready corev1.ConditionStatus) *dcorev1.Node {
	n := &dcorev1.Node{}
	n.Name = name
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	return n
}

var _ = Describe("Ledger", func() {
	var ledger *Ledger
	BeforeEach(func() { ledger = New() })

	// missing are the nodes that an Await of a moment does not get an acknowledgement of.
	missing := func(revision uint64) []string {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		err := ledger.Await(ctx, revision)
		var e *NotAcknowledgedError
		if errors.As(err, &e) {
			return append([]string{}, e.Nodes...)
		}
		Expect(err).NotTo(HaveOccurred())
		return nil
	}
	await := func(revision uint64) <-chan error {
		done := make(chan error, 1)
		waiting := func() int {
			ledger.mu.Lock()
			defer ledger.mu.Unlock()
			return len(ledger.waiters)
		}
		begun := waiting()
		go func() { done <- ledger.Await(context.Background(), revision) }()
		Eventually(waiting).Should(Equal(begun + 1))
		return done
	}

	It("acknowledges nothing while it does not know the nodes", func() {
		ledger.Report("a", 7)
		Expect(missing(7)).To(BeEmpty())
		Expect(missing(7)).NotTo(BeNil())
		waits := await(7)
		Expect((*nodes)(ledger).Replace([]any{node("a", corev1.ConditionTrue)}, "")).To(Succeed())
		Eventually(waits).Should(Receive(BeNil()))
	})

	It("waits for every Ready node, and for no other", func() {
		Expect((*nodes)(ledger).Replace([]any{
			node("a", corev1.ConditionTrue), node("b", corev1.ConditionTrue), node("c", corev1.ConditionUnknown),
		}, "")).To(Succeed())
		Expect(missing(7)).To(Equal([]string{"a", "b"}))
		first, second := await(7), await(9)
		ledger.Report("a", 9)
		ledger.Report("b", 6)
		Expect(missing(7)).To(Equal([]string{"b"}))
		Consistently(first, 20*time.Millisecond).ShouldNot(Receive())
		ledger.Report("b", 7)
		Eventually(first).Should(Receive(BeNil()))

		By("a node that becomes Ready is waited for, one that does not stay so is not")
		Expect((*nodes)(ledger).Update(node("c", corev1.ConditionTrue))).To(Succeed())
		Expect((*nodes)(ledger).Update(node("b", corev1.ConditionFalse))).To(Succeed())
		Consistently(second, 20*time.Millisecond).ShouldNot(Receive())
		Expect((*nodes)(ledger).Delete(node("c", corev1.ConditionTrue))).To(Succeed())
		Eventually(second).Should(Receive(BeNil()))
		Expect(ledger.waiters).To(BeEmpty())
	})

	It("believes a node that begins anew, and forgets those that are gone", func() {
		Expect((*nodes)(ledger).Replace([]any{node("a", corev1.ConditionTrue)}, "")).To(Succeed())
		ledger.Report("a", 9)
		ledger.Report("a", 3)
		Expect(missing(9)).To(Equal([]string{"a"}))
		Expect((*nodes)(ledger).Replace([]any{node("b", corev1.ConditionTrue)}, "")).To(Succeed())
		Expect(missing(1)).To(Equal([]string{"b"}))
		Expect(ledger.revisions).To(BeEmpty())
	})

	It("names a few of many", func() {
		e := &NotAcknowledgedError{Revision: 5, Nodes: []string{"a", "b", "c", "d", "e", "f", "g"}}
		Expect(e).To(MatchError("revision 5 of the endpoints is not acknowledged by a, b, c, d, e and 2 more"))
	})

	It("answers as a look at all nodes would, whatever happens in whatever order", func() {
		for range 200 {
			ledger = New()
			Expect((*nodes)(ledger).Replace(nil, "")).To(Succeed())
			ready, revisions := map[string]bool{}, map[string]uint64{}
			for range 40 {
				name := fmt.Sprint("n", rand.N(5))
				switch rand.N(4) {
				case 0:
					ready[name] = true
					Expect((*nodes)(ledger).Update(node(name, corev1.ConditionTrue))).To(Succeed())
				case 1:
					delete(ready, name)
					Expect((*nodes)(ledger).Update(node(name, corev1.ConditionFalse))).To(Succeed())
				default:
					revisions[name] = rand.Uint64N(10)
					ledger.Report(name, revisions[name])
				}
			}
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			for revision := range uint64(11) {
				all := true
				for name := range ready {
					all = all && revisions[name] >= revision
				}
				Expect(ledger.Await(ended, revision) == nil).To(Equal(all))
			}
		}
	})
})
