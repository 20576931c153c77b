package v1

import appsv1 "k8s.io/api/apps/v1"

// Conditions that a Deployment carries beside upstream's, for tools that read every kind alike (kstatus).
// Their writer is the deployment controller; their reasons are those of upstream's conditions.
const (
	// DeploymentReady says that the rollout is complete and every replica available.
	DeploymentReady appsv1.DeploymentConditionType = "Ready"
	// DeploymentReconciling says that a rollout is under way, be it that pods cannot be created at the
	// moment. It is absent otherwise.
	DeploymentReconciling appsv1.DeploymentConditionType = "Reconciling"
	// DeploymentStalled says that a rollout has come no further within its progress deadline, or that
	// nothing can be rolled out. It is absent otherwise.
	DeploymentStalled appsv1.DeploymentConditionType = "Stalled"
)

// DeploymentSelectingAll is the reason of a Deployment's conditions, and of the event that goes with them,
// when its selector matches every pod of the namespace: none is touched.
const DeploymentSelectingAll = "SelectingAll"

// Conditions that a ReplicaSet carries beside upstream's, for tools that read every kind alike (kstatus).
// Their writer is the replica set controller. A ReplicaSet has no deadline, so none is ever stalled.
const (
	// ReplicaSetReady says that there are as many replicas as asked for, and all are available.
	ReplicaSetReady appsv1.ReplicaSetConditionType = "Ready"
	// ReplicaSetReconciling says that replicas are still to come or to go. It is absent otherwise.
	ReplicaSetReconciling appsv1.ReplicaSetConditionType = "Reconciling"
)

// Reasons of a ReplicaSet's conditions Ready and Reconciling, where ReplicaFailure does not name the cause.
const (
	// ReplicaSetAvailable says that every replica is available.
	ReplicaSetAvailable = "ReplicasAvailable"
	// ReplicaSetUnavailable says that there are fewer available replicas than asked for.
	ReplicaSetUnavailable = "ReplicasUnavailable"
	// ReplicaSetSurplus says that there are more replicas than asked for.
	ReplicaSetSurplus = "ReplicasSurplus"
)
