package deployment

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"

	dappsv1 "drayage.dev/apis/apps/v1"
)

// setKstatus says in three conditions that tools read on every kind what upstream's conditions and counts
// say in theirs. Exactly one of Ready, Reconciling and Stalled is true, or none while the Deployment is
// paused in the middle of a rollout. That pods cannot be created is tried again, so it stalls a rollout only
// when the deadline has passed: a quota or an account that comes a moment later must not count as failure.
func setKstatus(status *appsv1.DeploymentStatus, d *appsv1.Deployment) {
	late := deploymentutil.GetDeploymentCondition(*status, appsv1.DeploymentProgressing)
	if late != nil && late.Status != corev1.ConditionFalse {
		late = nil
	}
	failure := deploymentutil.GetDeploymentCondition(*status, appsv1.DeploymentReplicaFailure)
	complete := late == nil && failure == nil && deploymentutil.DeploymentComplete(d, status)

	ready := deploymentutil.NewDeploymentCondition(dappsv1.DeploymentReady, corev1.ConditionTrue,
		deploymentutil.NewRSAvailableReason, "Every replica runs the current template and is available.")
	switch {
	case late != nil:
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, late.Reason, late.Message
	case failure != nil:
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, failure.Reason, failure.Message
	case !complete && d.Spec.Paused:
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, deploymentutil.PausedDeployReason,
			"Deployment is paused before every replica runs the current template; resume it to go on."
	case !complete:
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, deploymentutil.ReplicaSetUpdatedReason,
			"Not every replica runs the current template and is available yet."
	}
	deploymentutil.SetDeploymentCondition(status, *ready)
	mark(status, dappsv1.DeploymentReconciling, *ready, late == nil && !complete && !d.Spec.Paused)
	mark(status, dappsv1.DeploymentStalled, *ready, late != nil)
}

// selectsAll is what users read of a Deployment that is refused.
const selectsAll = "This deployment is selecting all pods. A non-empty selector is required."

// setRefused says that nothing is done for a Deployment until its selector is changed.
func setRefused(status *appsv1.DeploymentStatus) {
	ready := deploymentutil.NewDeploymentCondition(dappsv1.DeploymentReady, corev1.ConditionFalse, dappsv1.DeploymentSelectingAll, selectsAll)
	deploymentutil.SetDeploymentCondition(status, *ready)
	mark(status, dappsv1.DeploymentReconciling, *ready, false)
	mark(status, dappsv1.DeploymentStalled, *ready, true)
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
