package v1

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReplicaSet keeps a number of replicas of one pod template running.
// Spec and status are upstream's apps/v1 ReplicaSet's.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:resource:path=replicasets,singular=replicaset,shortName=drs,categories=drayage,scope=Namespaced
// +kubebuilder:printcolumn:name="Desired",type=integer,JSONPath=`.spec.replicas`
// +kubebuilder:printcolumn:name="Current",type=integer,JSONPath=`.status.replicas`
// +kubebuilder:printcolumn:name="Ready",type=integer,JSONPath=`.status.summary.ready`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Containers",type=string,priority=1,JSONPath=`.spec.template.spec.containers[*].name`
// +kubebuilder:printcolumn:name="Images",type=string,priority=1,JSONPath=`.spec.template.spec.containers[*].image`
// +kubebuilder:printcolumn:name="Selector",type=string,priority=1,JSONPath=`.status.selector`
type ReplicaSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the desired behaviour of the replica set.
	Spec appsv1.ReplicaSetSpec `json:"spec"`

	// Status is what the replica set controller last saw.
	// Until then its observedGeneration is 0, so that no tool takes a new object for a settled one.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":0,"replicas":0}
	Status ReplicaSetStatus `json:"status,omitempty"`
}

// ReplicaSetStatus is upstream's ReplicaSetStatus, the selector of the scale subresource and a summary
// for people.
type ReplicaSetStatus struct {
	appsv1.ReplicaSetStatus `json:",inline"`

	// Selector is spec.selector as a string, for the scale subresource.
	//
	// +optional
	Selector string `json:"selector,omitempty"`

	// Summary carries the columns of `kubectl get`; no program should read it.
	//
	// +optional
	// +kubebuilder:default={}
	Summary ReplicaSetSummary `json:"summary,omitempty"`
}

// ReplicaSetSummary is a replica set in the words of `kubectl get replicasets`.
type ReplicaSetSummary struct {
	// Ready counts the ready replicas.
	//
	// +optional
	// +kubebuilder:default=0
	Ready int32 `json:"ready"`
}

// ReplicaSetList is a list of replica sets.
//
// +kubebuilder:object:root=true
type ReplicaSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ReplicaSet `json:"items"`
}
