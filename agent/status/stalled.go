package status

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	upstreamstatus "k8s.io/kubernetes/pkg/kubelet/status"
)

// CrashLoopBackOff is the reason of a container that waits because it crashed again and again.
const CrashLoopBackOff = "CrashLoopBackOff"

// stalled says why waiting for a pod to become ready is in vain, for tools that read every kind alike
// (kstatus); nothing otherwise: it has ended in failure, or it runs and crashes again and again. An image
// that cannot be pulled is neither: it may come.
func stalled(s *corev1.PodStatus) (reason, message string) {
	switch {
	case s.Phase == corev1.PodFailed:
		return cmp.Or(s.Reason, upstreamstatus.PodFailed), cmp.Or(s.Message, "The pod has ended in failure and will not be started again.")
	case s.Phase != corev1.PodRunning || podutil.IsPodReadyConditionTrue(*s):
		return "", ""
	}
	for i := range s.ContainerStatuses {
		if waiting := s.ContainerStatuses[i].State.Waiting; waiting != nil && waiting.Reason == CrashLoopBackOff {
			return CrashLoopBackOff, fmt.Sprintf("Container %q keeps crashing; its log says why.", s.ContainerStatuses[i].Name)
		}
	}
	return "", ""
}
