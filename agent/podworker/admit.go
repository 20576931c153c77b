package podworker

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"drayage.dev/agent/security"
	"drayage.dev/agent/status"
)

// admission decides whether a pod that was bound to the node may run on it: the scheduler may have looked
// at an older state, and a pod may have been bound by hand.
type admission struct{ handler lifecycle.PodAdmitHandler }

func newAdmission(node func() *corev1.Node) admission {
	return admission{handler: lifecycle.NewPredicateAdmitHandler(
		func(context.Context, bool) (*corev1.Node, error) { return node(), nil },
		lifecycle.NewAdmissionFailureHandlerStub(),
		func(*framework.NodeInfo, *lifecycle.PodAdmitAttributes) error { return nil },
	)}
}

// admit returns why the pod may not run beside the others, or nil.
func (a admission) admit(pod *corev1.Pod, others []*corev1.Pod) *status.Verdict {
	if _, err := security.Sysctls(pod); err != nil {
		return &status.Verdict{Reason: security.SysctlForbidden, Message: err.Error()}
	}
	if result := a.handler.Admit(&lifecycle.PodAdmitAttributes{Pod: pod, OtherPods: others}); !result.Admit {
		return &status.Verdict{Reason: result.Reason, Message: "Pod was rejected: " + result.Message}
	}
	return nil
}
