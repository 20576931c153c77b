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

	generation []int64 // of each row
	rows       []row
	// static holds upstream's verdicts by shape of node; byName classes ask for names and get one per node.
	static   map[int32]static
	byName   bool
	hasPorts bool

	required nodeaffinity.RequiredNodeAffinity
	hard     []*spreadRule
	soft     []*spreadRule
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
	taints, preference, fixed int64
}

// static is what a shape of node decides.
type static struct {
	ok                 bool
	taints, preference int64
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
		generation: make([]int64, len(n.list)), rows: make([]row, len(n.list)), static: map[int32]static{},
		byName: p.byName || namesNodes(pod), hasPorts: usesHostPorts(pod),
		required: nodeaffinity.GetRequiredNodeAffinity(pod),
	}
	for i := range c.generation {
		c.generation[i] = -1
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
	return c, nil
}

// sync brings the rows of touched nodes up to date.
func (c *class) sync(ctx context.Context) error {
	for i, generation := range c.nodes.generation {
		if c.generation[i] == generation {
			continue
		}
		if err := c.evaluate(ctx, i); err != nil {
			return err
		}
		c.generation[i] = generation
		c.groups.update(c, i)
	}
	return nil
}

// evaluate computes one row, and what its node contributes to tallies.
func (c *class) evaluate(ctx context.Context, i int) error {
	info := c.nodes.info[i]
	c.countSpread(i, info)
	if c.affinity.count(c.nodes, i, info) {
		c.groups.reset()
	}
	c.rows[i] = row{}
	if !c.nodes.load[i].fits(&c.demand) && c.profile.fitFilters {
		return nil
	}
	s, err := c.judge(ctx, i, info)
	if err != nil || !s.ok {
		return err
	}
	if c.hasPorts {
		if ok, err := c.profile.portsFree(ctx, c.state, c.pod, info); err != nil || !ok {
			return err
		}
	}
	fixed, err := c.profile.fixedScore(ctx, c, &c.nodes.load[i], info)
	if err != nil {
		return err
	}
	c.rows[i] = row{ok: true, taints: s.taints, preference: s.preference, fixed: fixed}
	return nil
}

func (c *class) judge(ctx context.Context, i int, info *framework.NodeInfo) (static, error) {
	if c.byName {
		return c.profile.judge(ctx, c.state, c.pod, info)
	}
	s, ok := c.static[c.nodes.shape[i]]
	if !ok {
		var err error
		if s, err = c.profile.judge(ctx, c.state, c.pod, info); err != nil {
			return s, err
		}
		c.static[c.nodes.shape[i]] = s
	}
	return s, nil
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
		for _, r := range rules {
			included := complete && r.includes(c.pod, info.Node(), c.required, c.profile.tolerationOperators)
			r.count(i, included, c.pod.Namespace, info.Pods)
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
