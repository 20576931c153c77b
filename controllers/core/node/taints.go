package node

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	dcorev1 "drayage.dev/apis/core/v1"
)

// lost are the taints of nodes that do not run pods: of those two at most one is on a node.
var lost = sets.New(corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable)

// conditionTaint is a taint that follows from a condition's status.
type conditionTaint struct {
	kind   corev1.NodeConditionType
	status corev1.ConditionStatus
	key    string
}

var byCondition = []conditionTaint{
	{corev1.NodeReady, "", corev1.TaintNodeNotReady}, // nobody has said yet that it is
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// eviction is what to do about the taint that moves pods away from a lost node.
type eviction int

const (
	// keepEviction leaves it as it is, but for its key.
	keepEviction eviction = iota
	// startEviction adds it.
	startEviction
	// stopEviction removes it.
	stopEviction
)

// taintsOf returns the taints that a node should have, given what its conditions say. Taints of others
// stay. A taint that changes only its key keeps its time: a pod's patience with a lost node does not
// begin again when the node goes from not ready to unreachable.
func taintsOf(node *dcorev1.Node, evict eviction, now time.Time) []corev1.Taint {
	schedule := sets.New[string]()
	if node.Spec.Unschedulable {
		schedule.Insert(corev1.TaintNodeUnschedulable)
	}
	lostKey := ""
	for _, rule := range byCondition {
		if conditionOf(&node.Status, rule.kind) == rule.status {
			schedule.Insert(rule.key)
			if lost.Has(rule.key) {
				lostKey = rule.key
			}
		}
	}
	var taints []corev1.Taint
	var since *metav1.Time
	for _, taint := range node.Spec.Taints {
		switch {
		case taint.Effect == corev1.TaintEffectNoExecute && lost.Has(taint.Key):
			since = taint.TimeAdded
			if since == nil {
				since = &metav1.Time{Time: now}
			}
			continue
		case taint.Effect == corev1.TaintEffectNoSchedule && ours(taint.Key):
			if !schedule.Has(taint.Key) {
				continue
			}
			schedule.Delete(taint.Key) // it is there already
		}
		taints = append(taints, taint)
	}
	added := metav1.NewTime(now)
	for _, key := range sets.List(schedule) {
		taints = append(taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &added})
	}
	if since == nil && evict == startEviction {
		since = &added
	}
	// A node that nobody has reported on yet has no pods to move away.
	if lostKey != "" && readiness(&node.Status) != "" && since != nil && evict != stopEviction {
		taints = append(taints, corev1.Taint{Key: lostKey, Effect: corev1.TaintEffectNoExecute, TimeAdded: since})
	}
	return taints
}

func ours(key string) bool {
	return key == corev1.TaintNodeUnschedulable ||
		slices.ContainsFunc(byCondition, func(rule conditionTaint) bool { return rule.key == key })
}

// sameTaints compares lists without regard to order and time.
func sameTaints(a, b []corev1.Taint) bool {
	set := func(list []corev1.Taint) sets.Set[corev1.Taint] {
		result := sets.New[corev1.Taint]()
		for _, taint := range list {
			taint.TimeAdded = nil
			result.Insert(taint)
		}
		return result
	}
	return len(a) == len(b) && set(a).Equal(set(b))
}

// evicts tells whether a node is being emptied because it is lost.
func evicts(node *dcorev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool {
		return taint.Effect == corev1.TaintEffectNoExecute && lost.Has(taint.Key)
	})
}
