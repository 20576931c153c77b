package fastpath

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var (
	// placements counts decisions. The path is "fast", or "upstream" with the reason for it.
	placements = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "drayage_scheduler_decisions_total", StabilityLevel: metrics.ALPHA,
		Help: "Scheduling decisions by path (fast, upstream) and, for upstream's, the reason why.",
	}, []string{"path", "reason"})
	// disagreements is an alarm: it stays at 0 unless the fast path is wrong.
	disagreements = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "drayage_scheduler_disagreements_total", StabilityLevel: metrics.ALPHA,
		Help: "Decisions of the fast path that upstream's plugins did not confirm: it chose a node that they refuse (refused), or found none where they found one (missed); or that panicked (panicked).",
	}, []string{"kind"})
	classSizes = metrics.NewHistogram(&metrics.HistogramOpts{
		Name: "drayage_scheduler_class_pods", StabilityLevel: metrics.ALPHA,
		Help:    "Pods that were placed by one class of alike pods before it was given up.",
		Buckets: metrics.ExponentialBuckets(1, 4, 8),
	})
)

var register = sync.OnceFunc(func() { legacyregistry.MustRegister(placements, disagreements, classSizes) })
