package replicaset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	upstreamreplicaset "k8s.io/kubernetes/pkg/controller/replicaset"

	dappsv1 "drayage.dev/apis/apps/v1"
)

// newStatus is the status that a ReplicaSet should carry after a pass that ended with scaleErr.
func newStatus(seen observed, scaleErr error, now time.Time) dappsv1.ReplicaSetStatus {
	set := seen.set
	terminating := int32(len(seen.terminating))
	status := appsv1.ReplicaSetStatus{
		Replicas:            int32(len(seen.active)),
		TerminatingReplicas: &terminating,
		ObservedGeneration:  set.Generation,
		Conditions:          append([]appsv1.ReplicaSetCondition(nil), set.Status.Conditions...),
	}
	template := labels.Set(set.Spec.Template.Labels).AsSelectorPreValidated()
	for _, pod := range seen.active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if podutil.IsPodReady(pod) {
			status.ReadyReplicas++
		}
		if podutil.IsPodAvailable(pod, set.Spec.MinReadySeconds, metav1.Time{Time: now}) {
			status.AvailableReplicas++
		}
	}
	setReplicaFailure(&status, seen, scaleErr)
	setKstatus(&status, set)
	return dappsv1.ReplicaSetStatus{
		ReplicaSetStatus: status,
		Selector:         seen.selector.String(),
		Summary:          dappsv1.ReplicaSetSummary{Ready: status.ReadyReplicas},
	}
}

// setReplicaFailure states why pods could not be created or deleted, and takes the statement back after a
// pass without trouble. A failure keeps its first message, as upstream's does: a new one per attempt
// would cost a write per attempt.
func setReplicaFailure(status *appsv1.ReplicaSetStatus, seen observed, scaleErr error) {
	standing := upstreamreplicaset.GetCondition(*status, appsv1.ReplicaSetReplicaFailure)
	switch {
	case scaleErr == nil && standing != nil:
		upstreamreplicaset.RemoveCondition(status, appsv1.ReplicaSetReplicaFailure)
	case scaleErr != nil && standing == nil:
		reason := controller.FailedCreatePodReason
		if seen.surplus() > 0 {
			reason = controller.FailedDeletePodReason
		}
		upstreamreplicaset.SetCondition(status, upstreamreplicaset.NewReplicaSetCondition(
			appsv1.ReplicaSetReplicaFailure, corev1.ConditionTrue, reason, scaleErr.Error()))
	}
}

func sameStatus(a, b dappsv1.ReplicaSetStatus) bool {
	return equality.Semantic.DeepEqual(a, b)
}
