package fastpath

import (
	"k8s.io/component-base/metrics/testutil"
	fwk "k8s.io/kube-scheduler/framework"
	kubescheduler "k8s.io/kubernetes/pkg/scheduler"
)

// RefreshEvery is how many cycles upstream's snapshot may be behind.
const RefreshEvery = refreshEvery

// Mirror is the cluster as the fast path sees it.
func Mirror(s *kubescheduler.Scheduler) fwk.SharedLister { return s.Cache.(*mirror).lister() }

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
