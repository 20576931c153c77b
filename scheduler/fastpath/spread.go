package fastpath

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/helper"
)

// spreadRule is one topology spread constraint of a class.
type spreadRule struct {
	*tally
	selector     labels.Selector
	maxSkew      int64
	minDomains   int
	honorNode    bool // nodeAffinityPolicy
	honorTaints  bool // nodeTaintsPolicy
	byHost       bool // a soft rule over host names counts each node for itself
	matchesClass int64
	// repeats: the rule before it has the same selector and counts the same pods.
	repeats bool
	// members counts, per domain, the nodes that the rule looks at; domains without any do not exist for it.
	members []int32
	member  []bool // per node
	// floor is the smallest sum of a domain; it is computed once per decision.
	floor int64
	// seen and weight belong to the decision at hand: domains with a feasible node, and what a match weighs.
	seen   []int
	weight float64
}

// systemRules are upstream's constraints for pods that have none of their own.
var systemRules = []corev1.TopologySpreadConstraint{
	{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
	{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
}

// newSpreadRules makes the rules of one kind. defaultSelector stands in for the selectors of default rules.
func newSpreadRules(n *nodes, pod *corev1.Pod, constraints []corev1.TopologySpreadConstraint,
	defaultSelector labels.Selector, when corev1.UnsatisfiableConstraintAction,
) ([]*spreadRule, error) {
	var rules []*spreadRule
	for i := range constraints {
		c := &constraints[i]
		if c.WhenUnsatisfiable != when {
			continue
		}
		selector := defaultSelector
		if selector == nil {
			var err error
			if selector, err = constraintSelector(c, pod.Labels); err != nil {
				return nil, fmt.Errorf("reading a topology spread constraint: %w", err)
			}
		}
		r := &spreadRule{
			selector: selector, maxSkew: int64(c.MaxSkew), minDomains: 1,
			honorNode:   c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honorTaints: c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
			byHost:      when == corev1.ScheduleAnyway && c.TopologyKey == corev1.LabelHostname,
			member:      make([]bool, len(n.list)),
		}
		r.repeats = defaultSelector != nil && len(rules) > 0
		if c.MinDomains != nil {
			r.minDomains = int(*c.MinDomains)
		}
		if selector.Matches(labels.Set(pod.Labels)) {
			r.matchesClass = 1
		}
		r.tally = newTally(n.topology(c.TopologyKey))
		if r.byHost {
			// Nodes that share a host name still count for themselves, but only nodes with one count.
			r.tally = newTally(n.hosts())
		}
		r.members, r.seen = make([]int32, len(r.values)), make([]int, len(r.values))
		rules = append(rules, r)
	}
	return rules, nil
}

func constraintSelector(c *corev1.TopologySpreadConstraint, podLabels map[string]string) (labels.Selector, error) {
	selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
	if err != nil {
		return nil, err
	}
	requirements, selectable := selector.Requirements()
	if !selectable {
		return selector, nil
	}
	own := labels.Set{}
	for _, key := range c.MatchLabelKeys {
		if value, ok := podLabels[key]; ok {
			own[key] = value
		}
	}
	if len(own) == 0 {
		return selector, nil
	}
	return labels.SelectorFromSet(own).Add(requirements...), nil
}

// hosts is the topology of soft rules over host names.
func (n *nodes) hosts() *topology {
	const key = perNode + "\x00hosts"
	if t, ok := n.topologies[key]; ok {
		return t
	}
	byName, byNode := n.topology(corev1.LabelHostname), n.topology(perNode)
	t := &topology{key: perNode, domain: make([]int32, len(n.list)), values: byNode.values, private: true, missing: byName.missing}
	for i, d := range byNode.domain {
		if t.domain[i] = d; byName.domain[i] < 0 {
			t.domain[i] = -1
		}
	}
	n.topologies[key] = t
	return t
}

// includes reports whether the rule looks at a node.
func (r *spreadRule) includes(pod *corev1.Pod, node *corev1.Node, required nodeaffinity.RequiredNodeAffinity, comparison bool) bool {
	if r.honorNode {
		if match, _ := required.Match(node); !match { // upstream takes an unreadable term for no match, too
			return false
		}
	}
	if r.honorTaints {
		_, untolerated := v1helper.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints,
			pod.Spec.Tolerations, helper.DoNotScheduleTaintsFilterFunc(), comparison)
		return !untolerated
	}
	return true
}

// count notes what a node has to do with the rule: whether the rule looks at it, and how many pods match.
func (r *spreadRule) count(i int, included bool, matches int64) {
	if !included && !r.byHost {
		matches = 0
	}
	r.set(i, matches)
	if d := r.domain[i]; d >= 0 && included != r.member[i] {
		r.member[i] = included
		if included {
			r.members[d]++
		} else {
			r.members[d]--
		}
	}
}

func countMatches(pods []fwk.PodInfo, selector labels.Selector, namespace string) (matches int64) {
	if selector.Empty() {
		return 0
	}
	for _, info := range pods {
		pod := info.GetPod()
		if pod.DeletionTimestamp == nil && pod.Namespace == namespace && selector.Matches(labels.Set(pod.Labels)) {
			matches++
		}
	}
	return matches
}

// settle computes the floor of a hard rule.
func (r *spreadRule) settle() {
	domains := 0
	r.floor = math.MaxInt32
	for d, members := range r.members {
		if members > 0 {
			domains++
			r.floor = min(r.floor, r.sum[d])
		}
	}
	if domains < r.minDomains {
		r.floor = 0
	}
}

// admits reports whether one more pod keeps a hard rule's skew.
func (r *spreadRule) admits(node int32) bool {
	sum, ok := r.at(node)
	return ok && sum+r.matchesClass-r.floor <= r.maxSkew
}

// weigh sets a soft rule's weight by the number of domains that have feasible nodes.
func (r *spreadRule) weigh(domains int) { r.weight = math.Log(float64(domains + 2)) }

// cost is a soft rule's part of a node's raw score: lower is better.
func (r *spreadRule) cost(node int32) float64 {
	sum, ok := r.at(node)
	if !ok {
		return 0
	}
	return float64(sum)*r.weight + float64(r.maxSkew-1)
}
