package diagnostics

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // rest_client_*, workqueue_*, leader_election_*
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
)

// MetricsHandler serves the metrics of the process.
func MetricsHandler() http.Handler {
	return promhttp.HandlerFor(prometheus.GathererFunc(gather), promhttp.HandlerOpts{
		// One collector's trouble is no reason to show nothing.
		ErrorHandling: promhttp.ContinueOnError,
	})
}

// gather joins the two registries that a process has: Kubernetes' packages use one, controller-runtime another.
func gather() ([]*dto.MetricFamily, error) {
	families, err := legacyregistry.DefaultGatherer.Gather()
	more, moreErr := ctrlmetrics.Registry.Gather()
	return merge(families, more), errors.Join(err, moreErr)
}

// merge adds families to others, by name. What both say of the process and of Go's runtime is said once; a family of
// another type than its namesake is left out, as no one could read the two.
func merge(families, more []*dto.MetricFamily) []*dto.MetricFamily {
	byName := map[string]*dto.MetricFamily{}
	for _, family := range families {
		byName[family.GetName()] = family
	}
	for _, family := range more {
		known := byName[family.GetName()]
		switch {
		case known == nil:
			families = append(families, family)
		case known.GetType() != family.GetType() || strings.HasPrefix(family.GetName(), "go_") || strings.HasPrefix(family.GetName(), "process_"):
		default:
			for _, metric := range family.Metric {
				if !slices.ContainsFunc(known.Metric, func(m *dto.Metric) bool { return sameLabels(m, metric) }) {
					known.Metric = append(known.Metric, metric)
				}
			}
		}
	}
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return families
}

// sameLabels compares labels, which registries sort by name.
func sameLabels(a, b *dto.Metric) bool {
	return slices.EqualFunc(a.Label, b.Label, func(x, y *dto.LabelPair) bool {
		return x.GetName() == y.GetName() && x.GetValue() == y.GetValue()
	})
}
