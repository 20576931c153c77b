package v1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PriorityClass names a priority that pods ask for by spec.priorityClassName.
// Its fields are upstream's scheduling/v1 PriorityClass's.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=priorityclasses,singular=priorityclass,shortName=dpc,categories=drayage,scope=Cluster
// +kubebuilder:printcolumn:name="Value",type=integer,JSONPath=`.value`
// +kubebuilder:printcolumn:name="Global-Default",type=boolean,JSONPath=`.globalDefault`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="PreemptionPolicy",type=string,JSONPath=`.preemptionPolicy`
type PriorityClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Value is the priority that pods of this class receive; higher is more important.
	Value int32 `json:"value"`

	// GlobalDefault makes this the class of pods that name none.
	//
	// +optional
	// +kubebuilder:default=false
	GlobalDefault bool `json:"globalDefault"`

	// Description says when to use this class.
	//
	// +optional
	Description string `json:"description,omitempty"`

	// PreemptionPolicy says whether pods of this class preempt others: Never, or PreemptLowerPriority
	// (the default).
	//
	// +optional
	PreemptionPolicy *corev1.PreemptionPolicy `json:"preemptionPolicy,omitempty"`
}

// PriorityClassList is a list of priority classes.
//
// +kubebuilder:object:root=true
type PriorityClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []PriorityClass `json:"items"`
}
