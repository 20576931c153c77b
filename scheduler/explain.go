package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// Explanation is what a profile's plugins make of a pod on each node.
type Explanation struct {
	// Pod is the pod as the scheduler sees it.
	Pod *corev1.Pod
	// Refusal says why a plugin refuses the pod on all nodes at once; empty when none does.
	Refusal string
	// Plugins are those that score, in the profile's order.
	Plugins []string
	// Nodes are all of the cluster's, the best first and those that refuse the pod last.
	Nodes []NodeExplanation
}

// NodeExplanation is what plugins make of a pod on one node.
type NodeExplanation struct {
	Name string
	// RefusedBy is the first plugin that keeps the pod from the node, and Reasons are why; empty when none does.
	RefusedBy string
	Reasons   []string
	// Scores are weighted and normalised over the nodes that let the pod in, by plugin. Total is their sum.
	Scores map[string]int64
	Total  int64
}

// Explain places a pod in thought, by the same plugins as a scheduler of this configuration, in the cluster
// as it is now. A pod that runs already is looked at as if it did not. Nothing is written.
func Explain(ctx context.Context, config Config, namespace, name string, options ...Option) (*Explanation, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	config.OneByOne = true // the fast path has no part in it
	s, err := New(ctx, config, options...)
	if err != nil {
		return nil, err
	}
	s.informers.Start(ctx.Done())
	s.dynamic.Start(ctx.Done())
	s.informers.WaitForCacheSync(ctx.Done())
	s.dynamic.WaitForCacheSync(ctx.Done())
	if err := s.upstream.WaitForHandlersSync(ctx); err != nil {
		return nil, fmt.Errorf("reading the cluster: %w", err)
	}
	pod, err := s.informers.Core().V1().Pods().Lister().Pods(namespace).Get(name)
	if err != nil {
		return nil, fmt.Errorf("reading the pod: %w", err)
	}
	profile := s.upstream.Profiles[pod.Spec.SchedulerName]
	if profile == nil {
		return nil, fmt.Errorf("explaining pod %s/%s: no profile is called %q, which its schedulerName is", namespace, name, pod.Spec.SchedulerName)
	}
	logger := klog.FromContext(ctx)
	unbound := pod
	if pod.Spec.NodeName != "" {
		if err := s.upstream.Cache.RemovePod(logger, pod); err != nil {
			return nil, fmt.Errorf("taking the pod from its node: %w", err)
		}
		unbound = pod.DeepCopy()
		unbound.Spec.NodeName = ""
	}
	snapshot, ok := profile.SnapshotSharedLister().(*cache.Snapshot)
	if !ok {
		return nil, fmt.Errorf("explaining pod %s/%s: the scheduler has no snapshot", namespace, name)
	}
	if err := s.upstream.Cache.UpdateSnapshot(logger, snapshot); err != nil {
		return nil, fmt.Errorf("taking a snapshot: %w", err)
	}
	explanation, err := explain(ctx, profile, unbound)
	if err != nil {
		return nil, fmt.Errorf("explaining pod %s/%s: %w", namespace, name, err)
	}
	explanation.Pod = pod
	return explanation, nil
}

func explain(ctx context.Context, profile framework.Framework, pod *corev1.Pod) (*Explanation, error) {
	e := &Explanation{}
	for _, plugin := range profile.ListPlugins().Score.Enabled {
		e.Plugins = append(e.Plugins, plugin.Name)
	}
	nodes, err := profile.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return nil, err
	}
	state := framework.NewCycleState()
	narrowed, status, _ := profile.RunPreFilterPlugins(ctx, state, pod)
	if status.IsRejected() {
		e.Refusal = fmt.Sprintf("%s: %s", status.Plugin(), strings.Join(status.Reasons(), ", "))
		return e, nil
	}
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	var feasible []fwk.NodeInfo
	for _, node := range nodes {
		n := NodeExplanation{Name: node.Node().Name}
		status := profile.RunFilterPluginsWithNominatedPods(ctx, state, pod, node)
		switch {
		case !narrowed.AllNodes() && !narrowed.NodeNames.Has(n.Name):
			n.RefusedBy, n.Reasons = "PreFilter", []string{"the pod names other nodes"}
		case status.IsSuccess():
			feasible = append(feasible, node)
			continue // it comes with its scores
		case status.IsRejected():
			n.RefusedBy, n.Reasons = status.Plugin(), status.Reasons()
		default:
			return nil, status.AsError()
		}
		e.Nodes = append(e.Nodes, n)
	}
	if len(feasible) > 0 {
		if err := e.score(ctx, profile, state, pod, feasible); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(e.Nodes, func(a, b NodeExplanation) int {
		switch {
		case (a.RefusedBy == "") != (b.RefusedBy == ""):
			return len(a.RefusedBy) - len(b.RefusedBy)
		case a.Total != b.Total:
			return int(b.Total - a.Total)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return e, nil
}

func (e *Explanation) score(ctx context.Context, profile framework.Framework, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) error {
	if status := profile.RunPreScorePlugins(ctx, state, pod, nodes); !status.IsSuccess() {
		return status.AsError()
	}
	scores, status := profile.RunScorePlugins(ctx, state, pod, nodes)
	if !status.IsSuccess() {
		return status.AsError()
	}
	for _, node := range scores {
		n := NodeExplanation{Name: node.Name, Scores: map[string]int64{}, Total: node.TotalScore}
		for _, plugin := range node.Scores {
			n.Scores[plugin.Name] = plugin.Score
		}
		e.Nodes = append(e.Nodes, n)
	}
	return nil
}
