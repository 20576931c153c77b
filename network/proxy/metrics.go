package proxy

import (
	"sync"
	"time"

	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/kubernetes/pkg/proxy/metrics"
)

// register makes the metrics known to the process's registry.
var register = sync.OnceFunc(func() {
	legacyregistry.MustRegister(metrics.SyncProxyRulesLatency, metrics.SyncFullProxyRulesLatency, metrics.SyncPartialProxyRulesLatency,
		metrics.SyncProxyRulesLastTimestamp, metrics.NFTablesSyncFailuresTotal)
})

// family is the label ip_family of kube-proxy's metrics. One table has both families.
const family = "inet"

// written counts a write to the kernel under kube-proxy's names, with its definitions.
func written(start time.Time, full bool, err error) {
	took := time.Since(start).Seconds()
	metrics.SyncProxyRulesLatency.WithLabelValues(family).Observe(took)
	if full {
		metrics.SyncFullProxyRulesLatency.WithLabelValues(family).Observe(took)
	} else {
		metrics.SyncPartialProxyRulesLatency.WithLabelValues(family).Observe(took)
	}
	if err != nil {
		metrics.NFTablesSyncFailuresTotal.WithLabelValues(family).Inc()
		return
	}
	metrics.SyncProxyRulesLastTimestamp.WithLabelValues(family).SetToCurrentTime()
}
