package replicaset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	upstreamreplicaset "k8s.io/kubernetes/pkg/controller/replicaset"

	dappsv1 "drayage.dev/apis/apps/v1"
)

// setKstatus says in two conditions that tools read on every kind what the counts say: exactly one of Ready
// and Reconciling is true. They change only when a count does, so they cost no write of their own; for the
// same reason their messages carry no numbers.
func setKstatus(status *appsv1.ReplicaSetStatus, set *appsv1.ReplicaSet) {
	ready := upstreamreplicaset.NewReplicaSetCondition(dappsv1.ReplicaSetReady, corev1.ConditionFalse,
		dappsv1.ReplicaSetUnavailable, "Not every replica that is asked for is available yet.")
	wanted := int32(1)
	if set.Spec.Replicas != nil {
		wanted = *set.Spec.Replicas
	}
	failure := upstreamreplicaset.GetCondition(*status, appsv1.ReplicaSetReplicaFailure)
	switch {
	case failure != nil:
		ready.Reason, ready.Message = failure.Reason, failure.Message
	case status.Replicas > wanted:
		ready.Reason, ready.Message = dappsv1.ReplicaSetSurplus, "More replicas than asked for are still there."
	case status.AvailableReplicas >= wanted && status.FullyLabeledReplicas >= wanted:
		ready.Status, ready.Reason = corev1.ConditionTrue, dappsv1.ReplicaSetAvailable
		ready.Message = "Every replica that is asked for is available."
	}
	put(status, ready)
	if ready.Status == corev1.ConditionTrue {
		upstreamreplicaset.RemoveCondition(status, dappsv1.ReplicaSetReconciling)
		return
	}
	put(status, upstreamreplicaset.NewReplicaSetCondition(dappsv1.ReplicaSetReconciling, corev1.ConditionTrue, ready.Reason, ready.Message))
}

// put sets a condition, with the time of its last transition kept where only its reason is new.
func put(status *appsv1.ReplicaSetStatus, condition appsv1.ReplicaSetCondition) {
	if current := upstreamreplicaset.GetCondition(*status, condition.Type); current != nil && current.Status == condition.Status {
		condition.LastTransitionTime = current.LastTransitionTime
	}
	upstreamreplicaset.SetCondition(status, condition)
}
