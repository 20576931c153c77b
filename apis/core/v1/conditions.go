package v1

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Conditions of Services. All have their writer in the service controller.
const (
	// ServiceReady says that the service has every address and port that it needs.
	ServiceReady = "Ready"
	// ServiceReconciling says that an address of a load balancer is still to come. It is absent otherwise.
	ServiceReconciling = "Reconciling"
	// ServiceHidesHostService says that the cluster that Drayage is installed in has a Service of the same
	// namespace and name, which Drayage's pods do not find by it. Absent where that is not so.
	ServiceHidesHostService = "HidesHostService"
	// ServiceStalled says that the service cannot become ready unless somebody changes it, or another
	// service gives up what it asks for. It is absent otherwise.
	ServiceStalled = "Stalled"
)

// NodeStalled is a Node's condition that nothing is known of it any more until somebody looks after the
// machine; its reasons are those of Ready. It is absent otherwise. Its writer is the node controller.
const NodeStalled corev1.NodeConditionType = "Stalled"

// PodStalled is a Pod's condition that it will not become ready by waiting: it has failed for good, or a
// container keeps crashing. It is absent otherwise. Its writer is the agent.
const PodStalled corev1.PodConditionType = "Stalled"

// Reasons of a Service's conditions, and of the events that go with them.
const (
	// ServiceSameName is why a Service hides another.
	ServiceSameName = "SameName"
	// ServiceAllocated says that every address and port is the service's own.
	ServiceAllocated = "Allocated"
	// ServiceAddressPending says that a load balancer's address is still to come: no node is ready.
	ServiceAddressPending = "AddressPending"
	// ServiceClusterIPTaken says that a requested cluster address is another service's. Nothing answers
	// there in this service's name.
	ServiceClusterIPTaken = "ClusterIPTaken"
	// ServiceClusterIPOutOfRange says that a requested cluster address is not in the service range.
	ServiceClusterIPOutOfRange = "ClusterIPOutOfRange"
	// ServiceClusterIPsExhausted says that the service range has no address left.
	ServiceClusterIPsExhausted = "ClusterIPsExhausted"
	// ServiceNodePortTaken says that a requested node port is another service's.
	ServiceNodePortTaken = "NodePortTaken"
	// ServiceNodePortOutOfRange says that a requested node port is not in the node port range.
	ServiceNodePortOutOfRange = "NodePortOutOfRange"
	// ServiceNodePortsExhausted says that no node port is left.
	ServiceNodePortsExhausted = "NodePortsExhausted"
)

// Reasons of a Node's Ready condition where the node controller writes it, in upstream's words.
const (
	// NodeStatusUnknown says that the agent has stopped renewing its lease.
	NodeStatusUnknown = "NodeStatusUnknown"
	// NodeStatusNeverUpdated says that no agent has ever reported the node's status.
	NodeStatusNeverUpdated = "NodeStatusNeverUpdated"
)

// PodEvictionRequested is the condition of a Pod whose eviction waits for its replacement to be ready: its
// ReplicaSet makes one more pod as long as the Deployment's maxSurge allows it. Its writers are the eviction
// subresource, which notes the last request in lastProbeTime, and the disruption controller, which takes it
// back when nobody has asked for EvictionRequestPatience.
const PodEvictionRequested corev1.PodConditionType = "drayage.dev/EvictionRequested"

// EvictionRequestPatience is how long after the last request a Pod counts as one whose eviction is wanted.
const EvictionRequestPatience = 2 * time.Minute

// Reasons of a Pod's condition DisruptionTarget, in upstream's words.
const (
	// PodEvictionByEvictionAPI says that somebody evicted the pod.
	PodEvictionByEvictionAPI = "EvictionByEvictionAPI"
	// PodDeletionByTaintManager says that the pod does not tolerate a NoExecute taint of its node.
	PodDeletionByTaintManager = "DeletionByTaintManager"
	// PodDeletionByPodGC says that the pod's node is gone.
	PodDeletionByPodGC = "DeletionByPodGC"
)
