package deployment

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"

	dappsv1 "drayage.dev/apis/apps/v1"
)

// setKstatus says in three conditions that tools read on every kind what upstream's conditions and counts
// say in theirs. Exactly one of Ready, Reconciling and Stalled is true, or none while the Deployment is
// paused in the middle of a rollout.
func setKstatus(status *appsv1.DeploymentStatus, d *appsv1.Deployment) {
	cause := stuckBy(*status)
	complete := cause == nil && deploymentutil.DeploymentComplete(d, status)

	ready := deploymentutil.NewDeploymentCondition(dappsv1.DeploymentReady, corev1.ConditionTrue,
		deploymentutil.NewRSAvailableReason, "Every replica runs the current template and is available.")
	switch {
	case cause != nil:
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, cause.Reason, cause.Message
	case !complete && d.Spec.Paused:
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, deploymentutil.PausedDeployReason,
			"Deployment is paused before every replica runs the current template; resume it to go on."
	case !complete:
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, deploymentutil.ReplicaSetUpdatedReason,
			"Not every replica runs the current template and is available yet."
	}
	deploymentutil.SetDeploymentCondition(status, *ready)
	mark(status, dappsv1.DeploymentReconciling, *ready, cause == nil && !complete && !d.Spec.Paused)
	mark(status, dappsv1.DeploymentStalled, *ready, cause != nil)
}

// stuckBy returns the condition that says why a rollout cannot go on, or nil.
func stuckBy(status appsv1.DeploymentStatus) *appsv1.DeploymentCondition {
	progressing := deploymentutil.GetDeploymentCondition(status, appsv1.DeploymentProgressing)
	if progressing != nil && progressing.Status == corev1.ConditionFalse {
		return progressing
	}
	return deploymentutil.GetDeploymentCondition(status, appsv1.DeploymentReplicaFailure)
}

// mark sets a condition that stands only while it is true, for ready's reason.
func mark(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType, ready appsv1.DeploymentCondition, holds bool) {
	if !holds {
		deploymentutil.RemoveDeploymentCondition(status, kind)
		return
	}
	deploymentutil.SetDeploymentCondition(status,
		*deploymentutil.NewDeploymentCondition(kind, corev1.ConditionTrue, ready.Reason, ready.Message))
}
