package fastpath

import (
	"context"
	"encoding/binary"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/parallelize"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
)

// visitsPerPod is how many nodes and pods upstream's filter for required spread may visit per pod on average, some
// 100 ns each. Classes that have more pods than this are confirmed in part, and save up for it.
const visitsPerPod = 768

// merged is a small cluster in which required spread rules say of a class what they say in the whole one: nodes that
// these rules do not tell apart are one node, with all pods that any of the rules selects. Upstream's filter visits this
// in place of all nodes.
type merged struct {
	byKey map[string]*mergedNode
	list  []fwk.NodeInfo
	// of, place and pods are per node: its merged node, its place in that one's nodes, and its pods there.
	of    []*mergedNode
	place []int32
	pods  [][]fwk.PodInfo
	// at is the place of each pod in its merged node.
	at map[fwk.PodInfo]int
	// credit is how many visits the class has saved up.
	credit int
	key    []byte
	found  []fwk.PodInfo
}

// mergedNode shows the labels and taints of one of its nodes, and the pods of all.
type mergedNode struct {
	fwk.NodeInfo
	key   string
	index int
	nodes []int32
	pods  []fwk.PodInfo
}

// GetPods returns the selected pods of all its nodes.
func (m *mergedNode) GetPods() []fwk.PodInfo { return m.pods }

func newMerged(nodes int) *merged {
	return &merged{
		byKey: map[string]*mergedNode{}, of: make([]*mergedNode, nodes), place: make([]int32, nodes),
		pods: make([][]fwk.PodInfo, nodes), at: map[fwk.PodInfo]int{},
	}
}

// selected returns those of a node's pods that a rule selects. The slice is good until the next call.
func (m *merged) selected(rules []*spreadRule, namespace string, pods []fwk.PodInfo) []fwk.PodInfo {
	m.found = m.found[:0]
	for _, info := range pods {
		pod := info.GetPod()
		if pod.Namespace != namespace || pod.DeletionTimestamp != nil {
			continue
		}
		for _, r := range rules {
			if r.selector.Matches(labels.Set(pod.Labels)) {
				m.found = append(m.found, info)
				break
			}
		}
	}
	return m.found
}

// set notes a node's pods, and what tells it apart: the domain of each rule, and whether the rule looks at it.
func (m *merged) set(i int, info fwk.NodeInfo, rules []*spreadRule, pods []fwk.PodInfo) {
	m.key = m.key[:0]
	for _, r := range rules {
		m.key = binary.AppendVarint(m.key, int64(r.domain[i]))
		if r.member[i] {
			m.key = append(m.key, '+')
		}
	}
	if old := m.of[i]; old == nil || old.key != string(m.key) {
		m.leave(i)
		m.join(i, info)
	}
	into, had := m.of[i], m.pods[i]
	same := 0
	for same < len(had) && same < len(pods) && had[same] == pods[same] {
		same++
	}
	for _, pod := range had[same:] {
		m.drop(into, pod)
	}
	for _, pod := range pods[same:] {
		m.at[pod] = len(into.pods)
		into.pods = append(into.pods, pod)
	}
	m.pods[i] = append(had[:same], pods[same:]...)
}

func (m *merged) join(i int, info fwk.NodeInfo) {
	into, ok := m.byKey[string(m.key)]
	if !ok {
		into = &mergedNode{NodeInfo: info, key: string(m.key), index: len(m.list)}
		m.byKey[into.key] = into
		m.list = append(m.list, into)
	}
	m.of[i], m.place[i] = into, int32(len(into.nodes))
	into.nodes = append(into.nodes, int32(i))
}

func (m *merged) leave(i int) {
	from := m.of[i]
	if from == nil {
		return
	}
	for _, pod := range m.pods[i] {
		m.drop(from, pod)
	}
	m.of[i], m.pods[i] = nil, m.pods[i][:0]
	last := len(from.nodes) - 1
	moved := from.nodes[last]
	from.nodes[m.place[i]], m.place[moved] = moved, m.place[i]
	if from.nodes = from.nodes[:last]; last > 0 {
		return
	}
	delete(m.byKey, from.key)
	end := len(m.list) - 1
	m.list[from.index] = m.list[end]
	m.list[from.index].(*mergedNode).index = from.index
	m.list = m.list[:end]
}

func (m *merged) drop(from *mergedNode, pod fwk.PodInfo) {
	place, last := m.at[pod], len(from.pods)-1
	moved := from.pods[last]
	from.pods[place], m.at[moved] = moved, place
	from.pods[last] = nil
	from.pods = from.pods[:last]
	delete(m.at, pod)
}

// affords reports whether a visit to all of it is within the budget, and takes it out of that.
func (m *merged) affords() bool {
	cost := len(m.list) + len(m.at)
	m.credit = min(m.credit+visitsPerPod, cost+visitsPerPod)
	if m.credit < cost {
		return false
	}
	m.credit -= cost
	return true
}

// spreadPlugin is upstream's plugin for topology spread, for merged clusters.
type spreadPlugin interface {
	fwk.PreFilterPlugin
	fwk.FilterPlugin
}

// confirm asks upstream's plugin about a node.
func (m *merged) confirm(ctx context.Context, plugin spreadPlugin, info []fwk.NodeInfo, state fwk.CycleState, pod *corev1.Pod, node int32) error {
	status := m.prepare(ctx, plugin, info, state, pod)
	if status.IsSuccess() {
		status = plugin.Filter(ctx, state, pod, info[node])
	}
	if !status.IsSuccess() && !status.IsSkip() {
		return fmt.Errorf("plugin %s: %s", names.PodTopologySpread, status.Message())
	}
	return nil
}

// prepare runs upstream's PreFilter.
func (m *merged) prepare(ctx context.Context, plugin spreadPlugin, info []fwk.NodeInfo, state fwk.CycleState, pod *corev1.Pod) *fwk.Status {
	for _, n := range m.list { // any of its nodes stands for all, as long as it is one of them
		n := n.(*mergedNode)
		n.NodeInfo = info[n.nodes[0]]
	}
	_, status := plugin.PreFilter(ctx, state, pod, m.list)
	return status
}

// alone has a plugin work in the caller's time: what it visits is little.
type alone struct{ handle }

// Parallelizer is for one goroutine.
func (alone) Parallelizer() fwk.Parallelizer { return parallelize.NewParallelizer(1) }
