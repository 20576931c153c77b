package v1

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Conditions that a PodDisruptionBudget carries beside upstream's DisruptionAllowed, for tools that read
// every kind alike (kstatus). Their writer is the disruption controller.
const (
	// PodDisruptionBudgetReady says that the budget was computed from what the cluster shows.
	PodDisruptionBudgetReady = "Ready"
	// PodDisruptionBudgetStalled says that it cannot be computed, and why: until then nothing that it
	// covers may be evicted. It is absent otherwise.
	PodDisruptionBudgetStalled = "Stalled"
	// PodDisruptionBudgetSynced is the reason of a Ready that is true.
	PodDisruptionBudgetSynced = "Synced"
)

// PodDisruptionBudget bounds how many pods of an application may be evicted at a time.
// Spec and status are upstream's policy/v1 PodDisruptionBudget's.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=poddisruptionbudgets,singular=poddisruptionbudget,shortName=dpdb,categories=drayage,scope=Namespaced
// +kubebuilder:printcolumn:name="Min Available",type=string,JSONPath=`.spec.minAvailable`
// +kubebuilder:printcolumn:name="Max Unavailable",type=string,JSONPath=`.spec.maxUnavailable`
// +kubebuilder:printcolumn:name="Allowed Disruptions",type=integer,JSONPath=`.status.disruptionsAllowed`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type PodDisruptionBudget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the budget.
	//
	// +optional
	Spec policyv1.PodDisruptionBudgetSpec `json:"spec,omitempty"`

	// Status is what the disruption controller last saw, less what the eviction API has granted since.
	// Until then its observedGeneration is 0, so that no tool takes a new object for a settled one.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":0,"disruptionsAllowed":0,"currentHealthy":0,"desiredHealthy":0,"expectedPods":0}
	Status policyv1.PodDisruptionBudgetStatus `json:"status,omitempty"`
}

// PodDisruptionBudgetList is a list of budgets.
//
// +kubebuilder:object:root=true
type PodDisruptionBudgetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []PodDisruptionBudget `json:"items"`
}
