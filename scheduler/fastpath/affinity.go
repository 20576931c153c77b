package fastpath

import (
	"k8s.io/apimachinery/pkg/labels"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// affinityRules are all inter-pod rules that concern a class: its own, and those of pods on nodes.
type affinityRules struct {
	info *framework.PodInfo
	// namespaceLabels are those of the class's namespace, for the selectors of other pods' terms.
	namespaceLabels labels.Set
	// weightOfRequired is what another pod's required affinity to this class adds to its domain's score.
	weightOfRequired int64
	// ignoreTheirs: preferences of other pods do not count for classes without preferences.
	ignoreTheirs bool

	attracts []*tally // per required affinity term: pods that match all of these terms
	repels   []*tally // per required anti-affinity term: pods that match it
	// fears counts other pods' required anti-affinity terms that match the class; likes sums up weights of
	// preferences, its own and others'. Both by label key.
	fears, likes keyed
	// first: the class matches its own affinity, so its first pod may start anywhere.
	first bool
	found map[string]int64
}

// keyed are tallies by label key, in the order in which the keys were met.
type keyed struct {
	keys    []string
	tallies []*tally
}

// set replaces what a node contributes and reports whether keys were met for the first time.
func (k *keyed) set(n *nodes, node int, shares map[string]int64) (grown bool) {
	for key := range shares {
		if !k.has(key) {
			k.keys, k.tallies = append(k.keys, key), append(k.tallies, newTally(n.topology(key)))
			grown = true
		}
	}
	for i, key := range k.keys {
		k.tallies[i].set(node, shares[key])
	}
	return grown
}

func (k *keyed) has(key string) bool {
	for _, known := range k.keys {
		if known == key {
			return true
		}
	}
	return false
}

func newAffinityRules(n *nodes, info *framework.PodInfo, namespaceLabels labels.Set, weightOfRequired int32, ignoreTheirs bool) *affinityRules {
	a := &affinityRules{
		info: info, namespaceLabels: namespaceLabels, weightOfRequired: int64(weightOfRequired),
		ignoreTheirs: ignoreTheirs && len(info.PreferredAffinityTerms)+len(info.PreferredAntiAffinityTerms) == 0,
		found:        map[string]int64{},
	}
	for _, term := range info.RequiredAffinityTerms {
		a.attracts = append(a.attracts, newTally(n.topology(term.TopologyKey)))
	}
	for _, term := range info.RequiredAntiAffinityTerms {
		a.repels = append(a.repels, newTally(n.topology(term.TopologyKey)))
	}
	a.first = matchesAll(info.RequiredAffinityTerms, info)
	return a
}

// own reports whether the class has inter-pod rules itself.
func (a *affinityRules) own() bool {
	return len(a.attracts)+len(a.repels)+len(a.info.PreferredAffinityTerms)+len(a.info.PreferredAntiAffinityTerms) > 0
}

// count notes what a node's pods have to do with the class. It reports whether label keys came up that
// no node's groups account for yet.
func (a *affinityRules) count(n *nodes, i int, node *framework.NodeInfo) (grown bool) {
	if len(a.attracts) > 0 {
		var matches int64
		for _, other := range node.Pods {
			if matchesAll(a.info.RequiredAffinityTerms, other) {
				matches++
			}
		}
		for _, t := range a.attracts {
			t.set(i, matches)
		}
	}
	for k, t := range a.repels {
		var matches int64
		for _, other := range node.Pods {
			if a.info.RequiredAntiAffinityTerms[k].Matches(other.GetPod(), nil) {
				matches++
			}
		}
		t.set(i, matches)
	}
	if len(node.PodsWithAffinity)+len(a.fears.keys)+len(a.likes.keys) == 0 && !a.own() {
		return false
	}
	clear(a.found)
	for _, other := range node.PodsWithRequiredAntiAffinity {
		for _, term := range other.GetRequiredAntiAffinityTerms() {
			if term.Matches(a.info.Pod, a.namespaceLabels) {
				a.found[term.TopologyKey]++
			}
		}
	}
	grown = a.fears.set(n, i, a.found)
	clear(a.found)
	a.weigh(node)
	return a.likes.set(n, i, a.found) || grown
}

// weigh sums up preferences between the class and a node's pods.
func (a *affinityRules) weigh(node *framework.NodeInfo) {
	if a.ignoreTheirs {
		return
	}
	if len(a.info.PreferredAffinityTerms)+len(a.info.PreferredAntiAffinityTerms) > 0 {
		for _, other := range node.Pods {
			a.add(a.info.PreferredAffinityTerms, other.GetPod().Namespace, labels.Set(other.GetPod().Labels), nil, 1)
			a.add(a.info.PreferredAntiAffinityTerms, other.GetPod().Namespace, labels.Set(other.GetPod().Labels), nil, -1)
		}
	}
	own := labels.Set(a.info.Pod.Labels)
	for _, other := range node.PodsWithAffinity {
		if a.weightOfRequired > 0 {
			for _, term := range other.GetRequiredAffinityTerms() {
				if term.Matches(a.info.Pod, a.namespaceLabels) {
					a.found[term.TopologyKey] += a.weightOfRequired
				}
			}
		}
		a.add(other.GetPreferredAffinityTerms(), a.info.Pod.Namespace, own, a.namespaceLabels, 1)
		a.add(other.GetPreferredAntiAffinityTerms(), a.info.Pod.Namespace, own, a.namespaceLabels, -1)
	}
}

// add weighs terms against a pod, given by its namespace and labels.
func (a *affinityRules) add(terms []fwk.WeightedAffinityTerm, namespace string, pod, namespaceLabels labels.Set, sign int64) {
	for i := range terms {
		term := &terms[i]
		if (term.Namespaces.Has(namespace) || term.NamespaceSelector.Matches(namespaceLabels)) && term.Selector.Matches(pod) {
			a.found[term.TopologyKey] += sign * int64(term.Weight)
		}
	}
}

func matchesAll(terms []fwk.AffinityTerm, other fwk.PodInfo) bool {
	for i := range terms {
		if !terms[i].Matches(other.GetPod(), nil) {
			return false
		}
	}
	return len(terms) > 0
}

// admits reports whether no required rule keeps the class from a node.
func (a *affinityRules) admits(node int32) bool {
	near, counted := true, int64(0)
	for _, t := range a.attracts {
		sum, ok := t.at(node)
		if !ok {
			return false
		}
		near = near && sum > 0
		counted += t.total
	}
	if !near && (counted > 0 || !a.first) {
		return false
	}
	for _, t := range a.repels {
		if sum, _ := t.at(node); sum > 0 {
			return false
		}
	}
	for _, t := range a.fears.tallies {
		if sum, _ := t.at(node); sum > 0 {
			return false
		}
	}
	return true
}

// score is the raw score of a node.
func (a *affinityRules) score(node int32) (score int64) {
	for _, t := range a.likes.tallies {
		sum, _ := t.at(node)
		score += sum
	}
	return score
}

// appendKey adds what tells nodes apart for these rules.
func (a *affinityRules) appendKey(key []int64, node int) []int64 {
	for _, tallies := range [][]*tally{a.attracts, a.repels, a.fears.tallies, a.likes.tallies} {
		for _, t := range tallies {
			key = t.appendKey(key, node)
		}
	}
	return key
}
