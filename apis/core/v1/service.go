package v1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Service is a stable address for a set of pods. Spec and status are upstream's core/v1 Service's.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=services,singular=service,shortName=dsvc,categories=drayage,scope=Namespaced
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Cluster-IP",type=string,JSONPath=`.spec.clusterIP`
// +kubebuilder:printcolumn:name="External-IP",type=string,JSONPath=`.status.summary.externalIP`
// +kubebuilder:printcolumn:name="Port(s)",type=string,JSONPath=`.status.summary.ports`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Service struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the desired behaviour of the service.
	Spec corev1.ServiceSpec `json:"spec"`

	// Status is what the service controller last saw.
	// Until then its observedGeneration is 0, so that no tool takes a new object for a settled one.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":0}
	Status ServiceStatus `json:"status,omitempty"`
}

// ServiceStatus is upstream's ServiceStatus, the observed generation and a summary for people.
type ServiceStatus struct {
	corev1.ServiceStatus `json:",inline"`

	// ObservedGeneration is the generation of the spec that the status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Summary carries the columns of `kubectl get`. Its writer is the service controller; no program
	// should read it.
	//
	// +optional
	Summary ServiceSummary `json:"summary,omitempty"`
}

// ServiceSummary is a service in the words of `kubectl get services`.
type ServiceSummary struct {
	// ExternalIP lists the addresses outside the cluster, "<none>" or "<pending>".
	//
	// +optional
	ExternalIP string `json:"externalIP"`
	// Ports lists the ports, as in "80:30080/TCP,443/TCP".
	//
	// +optional
	Ports string `json:"ports"`
}

// ServiceList is a list of services.
//
// +kubebuilder:object:root=true
type ServiceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Service `json:"items"`
}
