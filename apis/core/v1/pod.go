package v1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// NodeFinalizer stands on every Pod from its creation. The agent of the pod's node removes it when
	// nothing of the pod is left; the pod collector removes it where no agent ever will.
	NodeFinalizer = "drayage.dev/node"

	// DeletionGracePeriodAnnotation shortens (or, on deletion, sets) the grace period of a terminating
	// pod. Its value is a whole number of seconds, zero or more. It is how a DELETE's
	// gracePeriodSeconds reaches the agent, since the API server ignores it for custom resources.
	DeletionGracePeriodAnnotation = "drayage.dev/deletion-grace-period-seconds"

	// NodeNameField is the selectable field that carries a pod's node.
	NodeNameField = "spec.nodeName"

	// NodeLeaseNamespace is where each agent keeps the Lease that carries its heartbeat; the Lease is
	// named after the node.
	NodeLeaseNamespace = "drayage-node-lease"

	// NodesGroup is the group of every node identity.
	NodesGroup = "drayage:nodes"

	// NodeUserPrefix is what the user name of a node's identity begins with; the node's name follows.
	NodeUserPrefix = "drayage:node:"

	// SchedulerName is the scheduler that places pods whose spec names none; it is upstream's default
	// name, so that manifests need no change.
	SchedulerName = corev1.DefaultSchedulerName
)

// Pod is a group of containers that run together on one node. Spec and status are upstream's core/v1 Pod's.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=pods,singular=pod,shortName=dpo,categories=drayage,scope=Namespaced
// +kubebuilder:selectablefield:JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.summary.ready`,description="Ready containers of all containers."
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.summary.status`,description="Phase, or the reason that stands in its way."
// +kubebuilder:printcolumn:name="Restarts",type=string,JSONPath=`.status.summary.restarts`,description="Restarts of all containers together."
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="IP",type=string,priority=1,JSONPath=`.status.podIP`
// +kubebuilder:printcolumn:name="Node",type=string,priority=1,JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Nominated Node",type=string,priority=1,JSONPath=`.status.nominatedNodeName`
type Pod struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the desired behaviour of the pod.
	//
	// +kubebuilder:validation:XValidation:rule="!has(oldSelf.nodeName) || oldSelf.nodeName == '' || (has(self.nodeName) && self.nodeName == oldSelf.nodeName)",message="spec.nodeName is immutable once set"
	Spec corev1.PodSpec `json:"spec"`

	// Status is what the node last reported.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":0,"phase":"Pending","summary":{"ready":"","status":"Pending","restarts":"0"}}
	Status PodStatus `json:"status,omitempty"`
}

// PodStatus is upstream's PodStatus and a summary for people.
type PodStatus struct {
	corev1.PodStatus `json:",inline"`

	// Summary carries the columns of `kubectl get`, which cannot compute them for custom resources.
	// Its writer is whoever writes the phase; no program should read it.
	//
	// +optional
	Summary PodSummary `json:"summary,omitempty"`
}

// PodSummary is a pod in the words of `kubectl get pods`.
type PodSummary struct {
	// Ready counts ready containers of all containers, as in "1/2".
	//
	// +optional
	Ready string `json:"ready"`
	// Status is the phase, or the reason that stands in its way, such as "CrashLoopBackOff".
	//
	// +optional
	Status string `json:"status"`
	// Restarts counts the restarts of all containers, with the time since the last one left out.
	//
	// +optional
	Restarts string `json:"restarts"`
}

// PodList is a list of pods.
//
// +kubebuilder:object:root=true
type PodList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Pod `json:"items"`
}
