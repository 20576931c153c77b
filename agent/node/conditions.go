package node

import (
	"os"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kubelet's hard eviction thresholds, at which it reports pressure.
const (
	minMemoryBytes     = 100 << 20
	minDiskPercent     = 10
	minInodesPercent   = 5
	minPIDsFreePercent = 10
)

// condition returns a condition that is either well or not, in kubelet's words.
func condition(kind corev1.NodeConditionType, status bool, reasonTrue, reasonFalse, messageTrue, messageFalse string) corev1.NodeCondition {
	if status {
		return corev1.NodeCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reasonTrue, Message: messageTrue}
	}
	return corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reasonFalse, Message: messageFalse}
}

// conditions says how the machine is; problems are why it is not ready, in words.
func (r *Reporter) conditions(problems []string) []corev1.NodeCondition {
	memory, err := meminfo("MemAvailable")
	lowMemory := err == nil && memory < minMemoryBytes
	space, err := diskOf(r.config.DataDir)
	lowDisk := err == nil && (space.free*100 < space.bytes*minDiskPercent || space.inodes > 0 && space.inodesFree*100 < space.inodes*minInodesPercent)
	lowPIDs := r.machine.pidMax > 0 && processes()*100 > r.machine.pidMax*(100-minPIDsFreePercent)
	conditions := []corev1.NodeCondition{
		condition(corev1.NodeMemoryPressure, lowMemory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory",
			"the machine has less than 100 MiB of memory available", "the machine has enough memory available"),
		condition(corev1.NodeDiskPressure, lowDisk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure",
			"the disk of "+r.config.DataDir+" is nearly full", "the disk has enough room"),
		condition(corev1.NodePIDPressure, lowPIDs, "KubeletHasInsufficientPID", "KubeletHasSufficientPID",
			"the machine is running out of process ids", "the machine has enough process ids"),
		condition(corev1.NodeReady, len(problems) == 0, "KubeletReady", "KubeletNotReady",
			"the agent is ready to run pods", strings.Join(problems, "; ")),
	}
	if r.config.Network != nil {
		err := r.config.Network()
		message := ""
		if err != nil {
			message = err.Error()
		}
		// Reasons are those of upstream's route controller.
		conditions = append(conditions, condition(corev1.NodeNetworkUnavailable, err != nil, "NoRouteCreated", "RouteCreated",
			message, "pods reach the pods of every other node"))
	}
	return conditions
}

// processes counts the machine's tasks: the second number of the fourth field of /proc/loadavg.
func processes() int64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	if fields := strings.Fields(string(data)); len(fields) > 3 {
		_, total, _ := strings.Cut(fields[3], "/")
		count, _ := strconv.ParseInt(total, 10, 64)
		return count
	}
	return 0
}

// merge puts new conditions in the place of old ones, keeping the time since when each has been so, and
// the conditions of others.
func merge(old, own []corev1.NodeCondition, now metav1.Time) []corev1.NodeCondition {
	var merged []corev1.NodeCondition
	ours := map[corev1.NodeConditionType]bool{}
	for _, fresh := range own {
		ours[fresh.Type] = true
		fresh.LastHeartbeatTime, fresh.LastTransitionTime = now, now
		for _, before := range old {
			if before.Type == fresh.Type && before.Status == fresh.Status {
				fresh.LastTransitionTime = before.LastTransitionTime
			}
		}
		merged = append(merged, fresh)
	}
	for _, other := range old {
		if !ours[other.Type] {
			merged = append(merged, other)
		}
	}
	return merged
}
