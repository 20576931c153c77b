package scheduler

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var (
	// bindings counts what became of bindings. Its rate is how many pods a second get a node.
	bindings = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "drayage_scheduler_bindings_total", StabilityLevel: metrics.ALPHA,
		Help: "Bindings by result: bound, or refused by the API server or by what happened to pod or node meanwhile.",
	}, []string{"result"})
	bindingsInFlight = metrics.NewGauge(&metrics.GaugeOpts{
		Name: "drayage_scheduler_bindings_in_flight", StabilityLevel: metrics.ALPHA,
		Help: "Bindings that are being written. Decisions wait while there are 32.",
	})
	eventsDropped = metrics.NewCounter(&metrics.CounterOpts{
		Name: "drayage_scheduler_events_dropped_total", StabilityLevel: metrics.ALPHA,
		Help: "Events that were not written because 20,000 others waited.",
	})
)

var register = sync.OnceFunc(func() { legacyregistry.MustRegister(bindings, bindingsInFlight, eventsDropped) })
