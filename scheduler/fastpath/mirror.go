package fastpath

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// refreshEvery is after how many cycles upstream's snapshot is refreshed although nobody has asked for it, so that it
// does not hold on to what has long gone.
const refreshEvery = 1 << 12

// mirror is upstream's cache, and the nodes as they were at the start of the scheduling cycle: what upstream's snapshot
// shows, without its cost. Upstream lists all nodes anew whenever the first pod with inter-pod rules comes to a node or
// the last one goes; the mirror notes which nodes each change of the cache touches and copies these. Upstream's own
// snapshot is refreshed when somebody is about to read it (current), and not before.
type mirror struct {
	cache.Cache
	// snapshot is upstream's, which every profile's framework reads.
	snapshot *cache.Snapshot
	// eager: somebody reads upstream's snapshot where nobody can ask for it first.
	eager bool

	// mu is held over each change of the cache and its note, so that a copy of what was touched is one moment's.
	mu      sync.Mutex
	touched map[string]struct{}

	// The rest is the scheduling goroutine's. list, info and object are by index; epoch changes when indexes do.
	list  []fwk.NodeInfo
	info  []*framework.NodeInfo
	index map[string]int32
	epoch int
	// changed are the nodes that were copied since the fast path last looked, each once.
	changed []int32
	isNoted []bool
	// affine have pods with inter-pod rules, repelling those with required anti-affinity.
	affine, repelling subset
	// behind counts the cycles since upstream's snapshot was refreshed.
	behind int
}

func newMirror(c cache.Cache, snapshot *cache.Snapshot) *mirror {
	return &mirror{
		Cache: c, snapshot: snapshot, touched: map[string]struct{}{}, index: map[string]int32{},
		// Cycles of pod groups take the snapshot themselves.
		eager: utilfeature.DefaultFeatureGate.Enabled(features.GenericWorkload),
	}
}

// UpdateSnapshot starts a scheduling cycle. Snapshots other than the scheduler's own are updated as ever.
func (m *mirror) UpdateSnapshot(logger klog.Logger, snapshot *cache.Snapshot) error {
	if snapshot != m.snapshot {
		return m.Cache.UpdateSnapshot(logger, snapshot)
	}
	m.behind++
	if m.eager || m.behind > refreshEvery {
		_, err := m.current(logger)
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.copy()
	return nil
}

// current brings upstream's snapshot to the same moment as the mirror. It reports whether the cluster has
// changed since the cycle began.
func (m *mirror) current(logger klog.Logger) (moved bool, err error) {
	if m.behind == 0 {
		return false, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	moved = len(m.touched) > 0
	m.copy()
	if err = m.Cache.UpdateSnapshot(logger, m.snapshot); err == nil {
		m.behind = 0
	}
	return moved, err
}

// copy takes over what has been touched.
func (m *mirror) copy() {
	for name := range m.touched {
		// A node that has gone is an error, or has pods but no object any more.
		if info, err := m.GetNode(name); err == nil && info.Node() != nil {
			m.put(name, info)
		} else {
			m.remove(name)
		}
	}
	clear(m.touched)
}

func (m *mirror) put(name string, info *framework.NodeInfo) {
	i, ok := m.index[name]
	if !ok {
		i = int32(len(m.list))
		own := &framework.NodeInfo{}
		m.index[name], m.list, m.info = i, append(m.list, own), append(m.info, own)
		m.isNoted = append(m.isNoted, false)
		m.epoch++
	}
	*m.info[i] = *info
	if !m.isNoted[i] {
		m.isNoted[i], m.changed = true, append(m.changed, i)
	}
	m.affine.set(m.info[i], len(info.PodsWithAffinity) > 0)
	m.repelling.set(m.info[i], len(info.PodsWithRequiredAntiAffinity) > 0)
}

func (m *mirror) remove(name string) {
	i, ok := m.index[name]
	if !ok {
		return
	}
	m.affine.set(m.info[i], false)
	m.repelling.set(m.info[i], false)
	last := len(m.list) - 1
	delete(m.index, name)
	if int(i) != last {
		m.list[i], m.info[i] = m.list[last], m.info[last]
		m.index[m.info[i].Node().Name] = i
	}
	m.list[last], m.info[last] = nil, nil
	m.list, m.info, m.isNoted = m.list[:last], m.info[:last], m.isNoted[:last]
	m.epoch++
}

// doubt copies every node anew in the next cycle.
func (m *mirror) doubt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.index {
		m.touch(name)
	}
	for name := range m.Dump().Nodes {
		m.touch(name)
	}
}

// looked forgets what has changed: the fast path knows it now.
func (m *mirror) looked() {
	clear(m.isNoted)
	m.changed = m.changed[:0]
}

// subset is some of the nodes, in no order.
type subset struct {
	list []fwk.NodeInfo
	at   map[*framework.NodeInfo]int
}

func (s *subset) set(node *framework.NodeInfo, in bool) {
	i, was := s.at[node]
	switch {
	case in && !was:
		if s.at == nil {
			s.at = map[*framework.NodeInfo]int{}
		}
		s.at[node] = len(s.list)
		s.list = append(s.list, node)
	case was && !in:
		last := len(s.list) - 1
		moved := s.list[last]
		s.list[i], s.at[moved.(*framework.NodeInfo)] = moved, i
		s.list[last] = nil
		s.list = s.list[:last]
		delete(s.at, node)
	}
}

// change makes a change of the cache and notes the nodes of the pods that it is about.
func (m *mirror) change(make func() error, pods ...*corev1.Pod) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, pod := range pods {
		m.touch(pod.Spec.NodeName)
		// The cache may know the pod on another node.
		if known, err := m.GetPod(pod); err == nil {
			m.touch(known.Spec.NodeName)
		}
	}
	return make()
}

func (m *mirror) touch(node string) {
	if node != "" {
		m.touched[node] = struct{}{}
	}
}

// AssumePod notes the pod's node.
func (m *mirror) AssumePod(logger klog.Logger, pod *corev1.Pod) error {
	return m.change(func() error { return m.Cache.AssumePod(logger, pod) }, pod)
}

// ForgetPod notes the pod's node.
func (m *mirror) ForgetPod(logger klog.Logger, pod *corev1.Pod) error {
	return m.change(func() error { return m.Cache.ForgetPod(logger, pod) }, pod)
}

// AddPod notes the pod's node, and the one on which it was assumed.
func (m *mirror) AddPod(logger klog.Logger, pod *corev1.Pod) error {
	return m.change(func() error { return m.Cache.AddPod(logger, pod) }, pod)
}

// UpdatePod notes the pod's node.
func (m *mirror) UpdatePod(logger klog.Logger, oldPod, newPod *corev1.Pod) error {
	return m.change(func() error { return m.Cache.UpdatePod(logger, oldPod, newPod) }, oldPod, newPod)
}

// RemovePod notes the pod's node.
func (m *mirror) RemovePod(logger klog.Logger, pod *corev1.Pod) error {
	return m.change(func() error { return m.Cache.RemovePod(logger, pod) }, pod)
}

// AddNode notes the node.
func (m *mirror) AddNode(logger klog.Logger, node *corev1.Node) *framework.NodeInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touch(node.Name)
	return m.Cache.AddNode(logger, node)
}

// UpdateNode notes the node.
func (m *mirror) UpdateNode(logger klog.Logger, oldNode, newNode *corev1.Node) *framework.NodeInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touch(newNode.Name)
	return m.Cache.UpdateNode(logger, oldNode, newNode)
}

// RemoveNode notes the node.
func (m *mirror) RemoveNode(logger klog.Logger, node *corev1.Node) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touch(node.Name)
	return m.Cache.RemoveNode(logger, node)
}

// lister shows plugins the mirror in place of upstream's snapshot. Pods with claims or groups never come to them.
type lister struct {
	fwk.SharedLister
	*mirror
}

func (m *mirror) lister() fwk.SharedLister { return lister{m.snapshot, m} }

// NodeInfos are the mirror's.
func (l lister) NodeInfos() fwk.NodeInfoLister { return l }

// Get returns a node.
func (l lister) Get(name string) (fwk.NodeInfo, error) {
	if i, ok := l.index[name]; ok {
		return l.info[i], nil
	}
	return nil, fmt.Errorf("there is no node %q", name)
}

// List returns all nodes.
func (l lister) List() ([]fwk.NodeInfo, error) { return l.list, nil }

// HavePodsWithAffinityList returns the nodes that have pods with inter-pod rules.
func (l lister) HavePodsWithAffinityList() ([]fwk.NodeInfo, error) { return l.affine.list, nil }

// HavePodsWithRequiredAntiAffinityList returns the nodes that have pods with required anti-affinity.
func (l lister) HavePodsWithRequiredAntiAffinityList() ([]fwk.NodeInfo, error) {
	return l.repelling.list, nil
}

// handle is a framework as plugins see it, with a lister of one's own.
type handle struct {
	framework.Framework
	lister fwk.SharedLister
}

// SnapshotSharedLister hands plugins the lister.
func (h handle) SnapshotSharedLister() fwk.SharedLister { return h.lister }
