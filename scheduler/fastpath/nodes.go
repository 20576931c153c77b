package fastpath

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"drayage.dev/scheduler/plugins/startup"
)

// load is what a node has and what its pods take: millicores, bytes, pods.
type load struct {
	cpu, memory, storage, pods             int64
	usedCPU, usedMemory, usedStorage, held int64
	// Upstream scores with defaults in place of missing requests.
	scoredCPU, scoredMemory int64
	// starting counts pods that have not started yet, where a profile asks for it.
	starting int64
}

// nodes is the mirror in arrays, with its indexes.
type nodes struct {
	list       []fwk.NodeInfo
	info       []*framework.NodeInfo
	generation []int64
	object     []*corev1.Node
	load       []load
	// shape tells nodes apart that static plugins may tell apart; equal shapes get equal verdicts.
	shape  []int32
	shapes map[string]int32
	// kinds are the nodes of equal shape and load; byKind finds them. kind and place are per node.
	kinds  []*kind
	byKind map[kindKey]*kind
	kind   []*kind
	place  []int32
	// byName finds nodes; it is made when it is asked for.
	byName map[string]int32
	// made counts kinds, also those that are gone; it is the next one's number.
	made int
	// countsStarting: some profile asks how many pods are about to start.
	countsStarting bool
	// images counts the nodes that have an image.
	images map[string]int
	// topologies are the label keys that tallies ask for.
	topologies map[string]*topology
	// epoch changes when everything derived from the list or from topologies is void; mirrored is the mirror's.
	epoch, mirrored int
	// recent are the nodes that were read last, forgotten is how many before these.
	recent    []int32
	forgotten int
}

// kind is all nodes on which plugins that look at one node say the same, but for images, ports and names.
type kind struct {
	kindKey
	number int // never given twice before nodes are reset
	index  int
	nodes  []int32
}

type kindKey struct {
	shape int32
	load  load
}

// maxMade and maxShapes bound what is remembered of kinds and shapes that no node has any more.
// Classes keep 32 bytes for each kind that was ever made.
const maxMade, maxShapes = 1 << 14, 1 << 14

// refresh follows the mirror and returns the epoch.
func (n *nodes) refresh(m *mirror) int {
	if n.list == nil || n.mirrored != m.epoch || len(n.shapes) > maxShapes || n.made > maxMade+len(m.list) {
		n.reset(m)
		for i := range n.info {
			n.read(i)
		}
	} else {
		for _, i := range m.changed {
			n.read(int(i))
		}
	}
	m.looked()
	return n.epoch
}

// now is a mark for since.
func (n *nodes) now() int { return n.forgotten + len(n.recent) }

// since returns the nodes that were read since a mark; ok is false where that is not known any more.
func (n *nodes) since(mark int) (recent []int32, ok bool) {
	if mark < n.forgotten {
		return nil, false
	}
	return n.recent[mark-n.forgotten:], true
}

func (n *nodes) reset(m *mirror) {
	list := m.list
	*n = nodes{
		list: list, info: m.info, generation: make([]int64, len(list)),
		object: make([]*corev1.Node, len(list)), load: make([]load, len(list)), shape: make([]int32, len(list)),
		shapes: map[string]int32{}, byKind: map[kindKey]*kind{}, kind: make([]*kind, len(list)), place: make([]int32, len(list)),
		images: map[string]int{}, topologies: map[string]*topology{}, epoch: n.epoch + 1,
		countsStarting: n.countsStarting, mirrored: m.epoch,
	}
}

func (n *nodes) read(i int) {
	info := n.info[i]
	n.generation[i] = info.Generation
	if len(n.recent) >= len(n.list) {
		n.recent, n.forgotten = n.recent[:0], n.now()
	}
	n.recent = append(n.recent, int32(i))
	n.load[i] = load{
		cpu: info.Allocatable.MilliCPU, memory: info.Allocatable.Memory,
		storage: info.Allocatable.EphemeralStorage, pods: int64(info.Allocatable.AllowedPodNumber),
		usedCPU: info.Requested.MilliCPU, usedMemory: info.Requested.Memory,
		usedStorage: info.Requested.EphemeralStorage, held: int64(len(info.Pods)),
		scoredCPU: info.NonZeroRequested.MilliCPU, scoredMemory: info.NonZeroRequested.Memory,
	}
	if n.countsStarting {
		n.load[i].starting = int64(startup.Queue(info.Pods))
	}
	if node := info.Node(); node != n.object[i] {
		n.readObject(i, node)
	}
	n.sort(i)
}

// readObject follows a change of what is known about a node beside its pods.
func (n *nodes) readObject(i int, node *corev1.Node) {
	if old := n.object[i]; old != nil {
		n.countImages(old, -1)
	}
	n.countImages(node, 1)
	n.object[i] = node
	key := shapeOf(node)
	id, ok := n.shapes[key]
	if !ok {
		id = int32(len(n.shapes))
		n.shapes[key] = id
	}
	n.shape[i] = id
	for _, t := range n.topologies {
		if !t.holds(i, node) {
			n.topologies = map[string]*topology{}
			n.epoch++
			return
		}
	}
}

// find returns the index of a node.
func (n *nodes) find(name string) (node int32, ok bool) {
	if n.byName == nil {
		n.byName = make(map[string]int32, len(n.object))
		for i, object := range n.object {
			n.byName[object.Name] = int32(i)
		}
	}
	node, ok = n.byName[name]
	return node, ok
}

func (n *nodes) countImages(node *corev1.Node, change int) {
	for i := range node.Status.Images {
		for _, name := range node.Status.Images[i].Names {
			if n.images[name] += change; n.images[name] == 0 {
				delete(n.images, name)
			}
		}
	}
}

// haveAny reports whether some node has one of the images.
func (n *nodes) haveAny(images []string) bool {
	return slices.ContainsFunc(images, func(name string) bool { return n.images[name] > 0 })
}

// sort moves a node to its kind.
func (n *nodes) sort(i int) {
	key := kindKey{n.shape[i], n.load[i]}
	if from := n.kind[i]; from != nil {
		if from.kindKey == key {
			return
		}
		last := len(from.nodes) - 1
		moved := from.nodes[last]
		from.nodes[n.place[i]], n.place[moved] = moved, n.place[i]
		if from.nodes = from.nodes[:last]; last == 0 {
			delete(n.byKind, from.kindKey)
			end := len(n.kinds) - 1
			n.kinds[from.index] = n.kinds[end]
			n.kinds[from.index].index = from.index
			n.kinds = n.kinds[:end]
		}
	}
	into := n.byKind[key]
	if into == nil {
		into = &kind{kindKey: key, number: n.made, index: len(n.kinds)}
		n.made++
		n.byKind[key] = into
		n.kinds = append(n.kinds, into)
	}
	n.kind[i], n.place[i] = into, int32(len(into.nodes))
	into.nodes = append(into.nodes, int32(i))
}

// shapeOf spells out what static plugins look at, except for the name and the host name, which tell all
// nodes apart: pods that ask for these get a verdict per node.
func shapeOf(node *corev1.Node) string {
	var key []byte
	keys := make([]string, 0, len(node.Labels))
	for label := range node.Labels {
		if label != corev1.LabelHostname {
			keys = append(keys, label)
		}
	}
	slices.Sort(keys)
	for _, label := range keys {
		key = strconv.AppendQuote(key, label)
		key = strconv.AppendQuote(key, node.Labels[label])
	}
	key = strconv.AppendBool(append(key, '|'), node.Spec.Unschedulable)
	key = strconv.AppendBool(append(key, '|'), startup.Ready(node))
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		key = strconv.AppendQuote(key, taint.Key)
		key = strconv.AppendQuote(key, taint.Value)
		key = strconv.AppendQuote(key, string(taint.Effect))
	}
	key = append(key, '|')
	for _, feature := range node.Status.DeclaredFeatures {
		key = strconv.AppendQuote(key, feature)
	}
	return string(key)
}

// topology maps nodes to the domains of one label key.
type topology struct {
	key string
	// domain is per node, -1 where the label is missing.
	domain []int32
	values []string
	// private: no domain has two nodes, so a domain's sum is known to its node's row.
	private bool
	// missing: some node lacks the label.
	missing bool
}

// perNode is the topology in which every node is a domain, whatever its labels say.
const perNode = ""

// topology returns the domains of a label key.
func (n *nodes) topology(key string) *topology {
	if t, ok := n.topologies[key]; ok {
		return t
	}
	t := &topology{key: key, domain: make([]int32, len(n.list)), private: true}
	ids := map[string]int32{}
	for i, node := range n.object {
		value, ok := node.Labels[key]
		if key == perNode {
			value, ok = node.Name, true
		}
		if !ok {
			t.domain[i], t.missing = -1, true
			continue
		}
		id, known := ids[value]
		if !known {
			id = int32(len(t.values))
			ids[value] = id
			t.values = append(t.values, value)
		}
		t.private = t.private && !known
		t.domain[i] = id
	}
	n.topologies[key] = t
	return t
}

// holds reports whether the node still is in the domain that was noted.
func (t *topology) holds(i int, node *corev1.Node) bool {
	if t.key == perNode {
		return true
	}
	value, ok := node.Labels[t.key]
	if d := t.domain[i]; d >= 0 {
		return ok && value == t.values[d]
	}
	return !ok
}
