package applied

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

var _ = Describe("Ledgers of several replicas", func() {
	var (
		ledgers [2]*Ledger
		relays  [2]*Relay
		// away says that a replica takes no messages; messages counts those that it took.
		away     [2]atomic.Bool
		messages [2]atomic.Int64
	)
	to := func(i int) Send {
		return func(_ context.Context, reports map[string]subresourcesv1alpha1.NodeReport) error {
			if away[i].Load() {
				return errors.New("away")
			}
			messages[i].Add(1)
			ledgers[i].Merge(reports)
			return nil
		}
	}
	join := func(ctx context.Context) {
		for i := range relays {
			relays[i].Set(ctx, map[string]Send{fmt.Sprint(1 - i): to(1 - i)})
		}
	}
	await := func(ctx context.Context, i int, revision uint64) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return ledgers[i].Await(ctx, revision)
	}
	// lacking is what a ledger lacks a moment later.
	lacking := func(ctx context.Context, i int, revision uint64) error {
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		return ledgers[i].Await(ctx, revision)
	}

	BeforeEach(func() {
		for i := range ledgers {
			ledgers[i] = New()
			relays[i] = NewRelay(ledgers[i], logr.Discard())
			away[i].Store(false)
			messages[i].Store(0)
			Expect((*nodes)(ledgers[i]).Replace([]any{node("a", corev1.ConditionTrue), node("b", corev1.ConditionTrue)}, "")).To(Succeed())
		}
	})

	It("answer alike, whichever a node has reported to", func(ctx context.Context) {
		join(ctx)
		for revision := range uint64(50) {
			ledgers[revision%2].Report("a", revision+1)
			ledgers[1-revision%2].Report("b", revision+1)
			for i := range ledgers {
				Expect(await(ctx, i, revision+1)).To(Succeed())
			}
		}
	})

	It("tell a new replica what they know, and one that was away what it missed", func(ctx context.Context) {
		ledgers[0].Report("a", 7)
		away[1].Store(true)
		join(ctx)
		ledgers[0].Report("a", 8)
		ledgers[0].Report("b", 8)
		Expect(lacking(ctx, 1, 8)).NotTo(Succeed())
		away[1].Store(false)
		Expect(await(ctx, 1, 8)).To(Succeed())
	})

	It("do not take an older report for a newer one, but a node that begins anew for what it is", func(ctx context.Context) {
		ledgers[0].Report("b", 9)
		ledgers[0].Report("a", 9)
		ledgers[0].Merge(map[string]subresourcesv1alpha1.NodeReport{"a": {Revision: 5}})
		Expect(await(ctx, 0, 9)).To(Succeed())
		join(ctx)
		Expect(await(ctx, 1, 9)).To(Succeed())
		ledgers[0].Report("a", 0)
		Eventually(func() error { return lacking(ctx, 1, 9) }).Should(MatchError(ContainSubstring("not acknowledged by a")))
	})

	It("pass on what nodes reported to them, and nothing else", func(ctx context.Context) {
		join(ctx)
		Consistently(func() int64 { return messages[0].Load() + messages[1].Load() }, 100*time.Millisecond).Should(BeZero())
		ledgers[0].Report("a", 3)
		Eventually(messages[1].Load).Should(BeEquivalentTo(1))
		Consistently(messages[0].Load, 100*time.Millisecond).Should(BeZero())
		relays[0].Set(ctx, nil)
		ledgers[0].Report("a", 4)
		Consistently(messages[1].Load, 100*time.Millisecond).Should(BeEquivalentTo(1))
	})
})
