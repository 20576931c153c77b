package v1

import appsv1 "k8s.io/api/apps/v1"

// Conditions that a Deployment carries beside upstream's, for tools that read every kind alike (kstatus).
// Their writer is the deployment controller; their reasons are those of upstream's conditions.
const (
	// DeploymentReady says that the rollout is complete and every replica available.
	DeploymentReady appsv1.DeploymentConditionType = "Ready"
	// DeploymentReconciling says that a rollout is under way. It is absent otherwise.
	DeploymentReconciling appsv1.DeploymentConditionType = "Reconciling"
	// DeploymentStalled says that a rollout is stuck until somebody changes something. It is absent
	// otherwise.
	DeploymentStalled appsv1.DeploymentConditionType = "Stalled"
)
