package fastpath

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/testutil"
	fwk "k8s.io/kube-scheduler/framework"
	kubescheduler "k8s.io/kubernetes/pkg/scheduler"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// RefreshEvery is how many cycles upstream's snapshot may be behind.
const RefreshEvery = refreshEvery

// Engine is a fast path.
type Engine struct{ *engine }

// InstallEngine is Install, and returns what it installed.
func InstallEngine(ctx context.Context, s *kubescheduler.Scheduler, profiles []schedulerconfig.KubeSchedulerProfile) Engine {
	return Engine{install(ctx, s, profiles)}
}

// Mirror is the cluster as the fast path sees it.
func (e Engine) Mirror() fwk.SharedLister { return e.mirror.lister() }

// LoosenSpread has the fast path, and nobody else, forget about required spread.
func (e Engine) LoosenSpread() {
	for _, c := range e.classes {
		for _, r := range c.hard {
			r.maxSkew = 1 << 10
		}
	}
}

// CheckMerged compares what upstream's filter for required spread says about each node, for a pod that was just decided
// on, when it sees the merged cluster and when it sees the whole. It returns how many nodes were compared.
func (e Engine) CheckMerged(ctx context.Context, profile string, pod *corev1.Pod) (compared int, err error) {
	p := e.profiles[profile]
	if p == nil {
		return 0, nil
	}
	c, _ := e.classOf(ctx, p, pod)
	if c == nil || c.merged == nil || c.rows == nil {
		return 0, nil
	}
	whole, small := framework.NewCycleState(), framework.NewCycleState()
	_, all := p.spreadAlone.PreFilter(ctx, whole, pod, e.nodes.list)
	few := c.merged.prepare(ctx, p.spreadAlone, e.nodes.list, small, pod)
	if all.Code() != few.Code() {
		return 0, fmt.Errorf("PreFilter is %s for the whole, %s for the merged cluster", all.Code(), few.Code())
	}
	if !all.IsSuccess() {
		return 0, nil
	}
	for _, node := range e.nodes.list {
		all, few := p.spreadAlone.Filter(ctx, whole, pod, node), p.spreadAlone.Filter(ctx, small, pod, node)
		if all.Code() != few.Code() {
			return compared, fmt.Errorf("node %s is %s for the whole, %s for the merged cluster", node.Node().Name, all.Code(), few.Code())
		}
		compared++
	}
	return compared, nil
}

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
