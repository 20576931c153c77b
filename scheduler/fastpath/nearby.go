package fastpath

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
)

// nearby is upstream's inter-pod affinity plugin on a part of the cluster: the nodes that decide on one of them.
// Visiting all nodes for every pod costs what a class saves.
type nearby struct {
	fwk.SharedLister
	nodes  []fwk.NodeInfo
	plugin interface {
		fwk.PreFilterPlugin
		fwk.FilterPlugin
	}
}

func newNearby(ctx context.Context, f framework.Framework, whole fwk.SharedLister, args runtime.Object) (*nearby, error) {
	n := &nearby{SharedLister: whole}
	plugin, err := plugins.NewInTreeRegistry()[names.InterPodAffinity](ctx, args, handle{f, n})
	if err != nil {
		return nil, err
	}
	n.plugin = plugin.(interface {
		fwk.PreFilterPlugin
		fwk.FilterPlugin
	})
	return n, nil
}

// NodeInfos are those of the part.
func (n *nearby) NodeInfos() fwk.NodeInfoLister { return part{n.SharedLister.NodeInfos(), n} }

type part struct {
	fwk.NodeInfoLister
	*nearby
}

func (p part) List() ([]fwk.NodeInfo, error) { return p.nodes, nil }

func (p part) HavePodsWithAffinityList() ([]fwk.NodeInfo, error) { return p.nodes, nil }

func (p part) HavePodsWithRequiredAntiAffinityList() ([]fwk.NodeInfo, error) { return p.nodes, nil }

// confirm asks the plugin about the first of nodes.
func (n *nearby) confirm(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) error {
	n.nodes = nodes
	_, status := n.plugin.PreFilter(ctx, state, pod, nodes)
	if status.IsSkip() {
		return nil
	}
	if status.IsSuccess() {
		status = n.plugin.Filter(ctx, state, pod, nodes[0])
	}
	if !status.IsSuccess() {
		return fmt.Errorf("plugin %s: %s", names.InterPodAffinity, status.Message())
	}
	return nil
}

// deciders returns the nodes that decide whether inter-pod rules let the class on a node, that node first. One pod
// near by is enough for an affinity; rules that keep pods apart are about the node alone where each node is a
// domain of its own. It returns none where more would have to be visited.
func (c *class) deciders(node int32) []fwk.NodeInfo {
	deciders := []fwk.NodeInfo{c.nodes.list[node]}
	for _, tallies := range [][]*tally{c.affinity.repels, c.affinity.fears.tallies} {
		for _, t := range tallies {
			if !t.private && t.domain[node] >= 0 {
				return nil
			}
		}
	}
	for _, t := range c.affinity.attracts {
		i := slices.IndexFunc(t.share, func(share int64) bool { return share > 0 })
		for ; i >= 0 && i < len(t.share) && (t.share[i] == 0 || t.domain[i] != t.domain[node]); i++ {
		}
		if i < 0 || i == len(t.share) {
			return nil // the first of its kind
		}
		if other := c.nodes.list[i]; !slices.Contains(deciders, other) {
			deciders = append(deciders, other)
		}
	}
	return deciders
}
