package fastpath

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// class is what is known about pods that are alike to every plugin, for one profile.
type class struct {
	profile *profile
	nodes   *nodes
	pod     *corev1.Pod // any of them
	state   *framework.CycleState
	demand  demand
	images  []string

	// kinds holds what is known about kinds of nodes, by their number; static, verdicts by shape.
	kinds  []kindRow
	static map[int32]static
	// plain classes need no more than that. For all others there is a row per node.
	plain      bool
	generation []int64 // of each row
	rows       []row
	mark       int  // up to which changes of nodes the rows are current
	byName     bool // asks for names, which shapes do not have
	hasPorts   bool
	local      bool // has no rules about pods on nodes
	hasImages  bool // some node has an image of the class

	required nodeaffinity.RequiredNodeAffinity
	anyNode  bool // requires nothing of a node
	hard     []*spreadRule
	soft     []*spreadRule
	merged   *merged // by the hard rules; nil without any
	// needsAll: soft rules score only nodes that have all their label keys.
	needsAll bool
	affinity *affinityRules

	groups groups
	uses   int // pods so far
}

// row is what plugins that look at one node say about it.
type row struct {
	ok bool
	// taints and preference are raw scores that are normalised; fixed is the weighted sum of all others.
	taints, preference int32
	fixed              int64
}

// kindRow is a row that holds for all nodes of a kind. Kinds never change, so it never does.
type kindRow struct {
	known bool
	row
}

// static is what a shape of node decides.
type static struct {
	ok                 bool
	taints, preference int32
}

// keyOf spells out what makes pods alike: everything but names, and what only the node's agent reads.
func keyOf(pod *corev1.Pod, selector labels.Selector, namespaceLabels labels.Set) (string, error) {
	spec := pod.Spec
	spec.Volumes, spec.Hostname, spec.EphemeralContainers = nil, "", nil
	spec.Containers, spec.InitContainers = placementOf(spec.Containers), placementOf(spec.InitContainers)
	key, err := spec.Marshal()
	if err != nil {
		return "", fmt.Errorf("encoding the pod's spec: %w", err)
	}
	part := func(s string) {
		key = binary.AppendUvarint(key, uint64(len(s)))
		key = append(key, s...)
	}
	part(pod.Namespace)
	part(labels.Set(pod.Labels).String())
	part(namespaceLabels.String())
	if selector != nil {
		part(selector.String())
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		part(string(owner.UID))
	}
	return string(key), nil
}

// placementOf drops from containers what no plugin reads.
func placementOf(containers []corev1.Container) []corev1.Container {
	stripped := slices.Clone(containers)
	for i := range stripped {
		c := &stripped[i]
		c.Command, c.Args, c.Env, c.EnvFrom, c.VolumeMounts = nil, nil, nil, nil, nil
		c.LivenessProbe, c.ReadinessProbe, c.StartupProbe, c.Lifecycle = nil, nil, nil, nil
	}
	return stripped
}

// newClass prepares the class of a pod. Its rows are empty until sync.
func newClass(ctx context.Context, p *profile, n *nodes, pod *corev1.Pod, d demand, defaults labels.Selector, namespaceLabels labels.Set) (*class, error) {
	c := &class{
		profile: p, nodes: n, pod: pod, demand: d, state: framework.NewCycleState(),
		static: map[int32]static{}, byName: p.byName || namesNodes(pod), hasPorts: usesHostPorts(pod),
		anyNode:  len(pod.Spec.NodeSelector) == 0 && (pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil),
		required: nodeaffinity.GetRequiredNodeAffinity(pod),
	}
	if err := p.prepare(ctx, c.state, pod); err != nil {
		return nil, err
	}
	constraints, own := pod.Spec.TopologySpreadConstraints, true
	if len(constraints) == 0 {
		constraints, own = p.spread, false
		if defaults == nil || defaults.Empty() {
			constraints = nil
		}
	}
	var err error
	if p.spreadFilters {
		if c.hard, err = newSpreadRules(n, pod, constraints, defaults, corev1.DoNotSchedule); err != nil {
			return nil, err
		}
		if len(c.hard) > 0 {
			c.merged = newMerged(len(n.list))
		}
	}
	if p.weight.spread > 0 {
		if c.soft, err = newSpreadRules(n, pod, constraints, defaults, corev1.ScheduleAnyway); err != nil {
			return nil, err
		}
	}
	c.needsAll = own || !p.systemSpread
	for _, r := range c.soft {
		if !c.needsAll && r.missing && slices.Contains(r.values, "") {
			return nil, fmt.Errorf("nodes without the label %s would share a domain with those where it is empty", r.key)
		}
	}
	info, err := framework.NewPodInfo(pod)
	if err != nil {
		return nil, fmt.Errorf("reading the pod's affinity: %w", err)
	}
	c.affinity = newAffinityRules(n, info, namespaceLabels, p.weightOfRequired, p.ignoreTheirs)
	c.local = !c.byName && !c.hasPorts && len(c.hard)+len(c.soft) == 0 && !c.affinity.own()
	return c, nil
}

// sync brings what is known about nodes up to date. social: some pod on a node has rules about others.
// images: some node has one of the class's.
func (c *class) sync(ctx context.Context, social, images bool) error {
	c.hasImages = images
	if c.plain = c.local && !images && !social; c.plain {
		c.rows, c.generation = nil, nil
		c.groups.reset()
		// What is counted of other pods' rules is not kept up to date, and is nothing now.
		c.affinity.fears, c.affinity.likes = keyed{}, keyed{}
		return c.syncKinds(ctx)
	}
	if c.rows == nil {
		c.groups.reset()
		c.rows, c.generation = make([]row, len(c.nodes.list)), make([]int64, len(c.nodes.list))
		for i := range c.generation {
			c.generation[i] = -1
		}
		c.mark = -1
	}
	if recent, ok := c.nodes.since(c.mark); ok {
		for _, i := range recent {
			if err := c.syncRow(ctx, int(i)); err != nil {
				return err
			}
		}
	} else {
		for i := range c.rows {
			if err := c.syncRow(ctx, i); err != nil {
				return err
			}
		}
	}
	c.mark = c.nodes.now()
	return nil
}

// syncRow brings a row up to date.
func (c *class) syncRow(ctx context.Context, i int) error {
	if c.generation[i] == c.nodes.generation[i] {
		return nil
	}
	if err := c.evaluate(ctx, i); err != nil {
		return err
	}
	c.generation[i] = c.nodes.generation[i]
	c.groups.update(c, i)
	return nil
}

// syncKinds makes the rows of kinds that are new.
func (c *class) syncKinds(ctx context.Context) error {
	for _, k := range c.nodes.kinds {
		if _, err := c.rowOf(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// rowOf returns the row that holds for all nodes of a kind.
func (c *class) rowOf(ctx context.Context, k *kind) (row, error) {
	if k.number >= len(c.kinds) {
		c.kinds = append(c.kinds, make([]kindRow, c.nodes.made-len(c.kinds))...)
	}
	known := &c.kinds[k.number]
	if known.known {
		return known.row, nil
	}
	known.known = true
	if c.profile.fitFilters && !k.load.fits(&c.demand) {
		return row{}, nil
	}
	s, ok := c.static[k.shape]
	if !ok {
		var err error
		if s, err = c.profile.judge(ctx, c.state, c.pod, c.nodes.info[k.nodes[0]]); err != nil {
			return row{}, err
		}
		c.static[k.shape] = s
	}
	if s.ok {
		known.row = row{ok: true, taints: s.taints, preference: s.preference, fixed: c.profile.loadScore(&c.demand, &k.load)}
	}
	return known.row, nil
}

// evaluate computes one row, and what its node contributes to tallies.
func (c *class) evaluate(ctx context.Context, i int) error {
	info := c.nodes.info[i]
	c.countSpread(i, info)
	if c.affinity.count(c.nodes, i, info) {
		c.groups.reset()
	}
	c.rows[i] = row{}
	r, err := c.localRow(ctx, i, info)
	if err != nil || !r.ok {
		return err
	}
	if c.hasPorts {
		if ok, err := c.profile.portsFree(ctx, c.state, c.pod, info); err != nil || !ok {
			return err
		}
	}
	if c.hasImages {
		images, err := c.profile.imageScore(ctx, c, info)
		if err != nil {
			return err
		}
		r.fixed += images
	}
	c.rows[i] = r
	return nil
}

func (c *class) localRow(ctx context.Context, i int, info *framework.NodeInfo) (row, error) {
	if !c.byName {
		return c.rowOf(ctx, c.nodes.kind[i])
	}
	load := &c.nodes.load[i]
	if c.profile.fitFilters && !load.fits(&c.demand) {
		return row{}, nil
	}
	s, err := c.profile.judge(ctx, c.state, c.pod, info)
	if err != nil || !s.ok {
		return row{}, err
	}
	return row{ok: true, taints: s.taints, preference: s.preference, fixed: c.profile.loadScore(&c.demand, load)}, nil
}

func (c *class) countSpread(i int, info *framework.NodeInfo) {
	for k, rules := range [2][]*spreadRule{c.hard, c.soft} {
		if len(rules) == 0 {
			continue
		}
		complete := true
		if k == 0 || c.needsAll {
			for _, r := range rules {
				complete = complete && r.domain[i] >= 0
			}
		}
		pods := info.Pods
		if k == 0 {
			pods = c.merged.selected(rules, c.pod.Namespace, pods)
		}
		var matches int64
		for _, r := range rules {
			included := complete && (c.anyNode && !r.honorTaints || r.includes(c.pod, info.Node(), c.required, c.profile.tolerationOperators))
			if !r.repeats {
				matches = countMatches(pods, r.selector, c.pod.Namespace)
			}
			r.count(i, included, matches)
		}
		if k == 0 {
			c.merged.set(i, info, rules, pods)
		}
	}
}

// namesNodes reports whether the pod's node affinity asks for names, which shapes do not have.
func namesNodes(pod *corev1.Pod) bool {
	if _, ok := pod.Spec.NodeSelector[corev1.LabelHostname]; ok {
		return true
	}
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return false
	}
	names := func(term *corev1.NodeSelectorTerm) bool {
		return len(term.MatchFields) > 0 || slices.ContainsFunc(term.MatchExpressions,
			func(r corev1.NodeSelectorRequirement) bool { return r.Key == corev1.LabelHostname })
	}
	affinity := pod.Spec.Affinity.NodeAffinity
	if required := affinity.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		for i := range required.NodeSelectorTerms {
			if names(&required.NodeSelectorTerms[i]) {
				return true
			}
		}
	}
	for i := range affinity.PreferredDuringSchedulingIgnoredDuringExecution {
		if names(&affinity.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference) {
			return true
		}
	}
	return false
}

func usesHostPorts(pod *corev1.Pod) bool {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for _, port := range containers[i].Ports {
				if port.HostPort > 0 {
					return true
				}
			}
		}
	}
	return false
}
