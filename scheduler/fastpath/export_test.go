package fastpath

import "k8s.io/component-base/metrics/testutil"

// Decided returns how many decisions went a path, for a reason.
func Decided(path, reason string) float64 {
	value, err := testutil.GetCounterMetricValue(placements.WithLabelValues(path, reason))
	if err != nil {
		panic(err)
	}
	return value
}

// Disagreed returns how many alarms of a kind there were.
func Disagreed(kind string) float64 {
	value, err := testutil.GetCounterMetricValue(disagreements.WithLabelValues(kind))
	if err != nil {
		panic(err)
	}
	return value
}
