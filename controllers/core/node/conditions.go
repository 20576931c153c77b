package node

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	dcorev1 "drayage.dev/apis/core/v1"
)

// reported are the conditions that an agent reports and that nobody knows about once it is gone.
var reported = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// rolePrefix begins the labels that name a node's roles; roleLabel has one as its value.
const (
	rolePrefix = "node-role.kubernetes.io/"
	roleLabel  = "kubernetes.io/role"
)

// readiness is the status of a node's Ready condition; empty when nobody has reported it yet.
func readiness(status *dcorev1.NodeStatus) corev1.ConditionStatus {
	return conditionOf(status, corev1.NodeReady)
}

func conditionOf(status *dcorev1.NodeStatus, kind corev1.NodeConditionType) corev1.ConditionStatus {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return status.Conditions[i].Status
		}
	}
	return ""
}

// Abandon says of a node that nothing is known about it, since Drayage was uninstalled and nobody looks after it any
// more. An agent's next report takes it back.
func Abandon(node *dcorev1.Node, now time.Time) {
	markUnknown(&node.Status, now, "Drayage was uninstalled: nobody reports the node's status.")
	markStalled(&node.Status, now)
	node.Status.Summary = summaryOf(node)
}

// silent is why nothing is known about a node whose lease has run out.
const silent = "The node's agent has stopped renewing its lease."

// markUnknown says of a node that is not heard of any more that nothing is known about it, and why.
func markUnknown(status *dcorev1.NodeStatus, now time.Time, why string) {
	for _, kind := range reported {
		i := slices.IndexFunc(status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
		if i >= 0 && status.Conditions[i].Status == corev1.ConditionUnknown {
			continue
		}
		condition := corev1.NodeCondition{
			Type: kind, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(now),
			Reason: dcorev1.NodeStatusUnknown, Message: why,
		}
		if i < 0 {
			condition.LastHeartbeatTime = metav1.NewTime(now)
			condition.Reason, condition.Message = dcorev1.NodeStatusNeverUpdated, "No agent has ever reported the node's status."
			status.Conditions = append(status.Conditions, condition)
			continue
		}
		condition.LastHeartbeatTime = status.Conditions[i].LastHeartbeatTime
		status.Conditions[i] = condition
	}
}

// markStalled says of a node that nothing is known of that waiting does not help, and takes it back when its
// agent is heard of again. A node that its agent calls unready is left alone: it may become ready.
func markStalled(status *dcorev1.NodeStatus, now time.Time) {
	is := func(kind corev1.NodeConditionType) func(corev1.NodeCondition) bool {
		return func(c corev1.NodeCondition) bool { return c.Type == kind }
	}
	ready, stalled := slices.IndexFunc(status.Conditions, is(corev1.NodeReady)), slices.IndexFunc(status.Conditions, is(dcorev1.NodeStalled))
	lost := ready >= 0 && status.Conditions[ready].Status == corev1.ConditionUnknown
	switch {
	case lost && stalled < 0:
		condition := status.Conditions[ready]
		condition.Type, condition.Status, condition.LastTransitionTime = dcorev1.NodeStalled, corev1.ConditionTrue, metav1.NewTime(now)
		status.Conditions = append(status.Conditions, condition)
	case !lost && stalled >= 0:
		status.Conditions = slices.Delete(status.Conditions, stalled, stalled+1)
	}
}

// summaryOf is a node's columns, as kubectl prints them.
func summaryOf(node *dcorev1.Node) dcorev1.NodeSummary {
	status := "NotReady"
	switch readiness(&node.Status) {
	case corev1.ConditionTrue:
		status = "Ready"
	case "":
		status = "Unknown"
	}
	if node.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	roles := sets.New[string]()
	for key, value := range node.Labels {
		if role, found := strings.CutPrefix(key, rolePrefix); found && role != "" {
			roles.Insert(role)
		} else if key == roleLabel && value != "" {
			roles.Insert(value)
		}
	}
	names := "<none>"
	if roles.Len() > 0 {
		names = strings.Join(sets.List(roles), ",")
	}
	return dcorev1.NodeSummary{Status: status, Roles: names}
}
