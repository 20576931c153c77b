package v1

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RevisionAnnotation is where a Deployment and its ReplicaSets carry their revision, a whole number.
// It is upstream's annotation, so that tools which know Kubernetes read it.
const RevisionAnnotation = "deployment.kubernetes.io/revision"

// Deployment keeps a number of replicas of a pod running and rolls out changes to its template.
// Spec and status are upstream's apps/v1 Deployment's.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:resource:path=deployments,singular=deployment,shortName=ddeploy,categories=drayage,scope=Namespaced
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.summary.ready`
// +kubebuilder:printcolumn:name="Up-to-date",type=integer,JSONPath=`.status.summary.upToDate`
// +kubebuilder:printcolumn:name="Available",type=integer,JSONPath=`.status.summary.available`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Containers",type=string,priority=1,JSONPath=`.spec.template.spec.containers[*].name`
// +kubebuilder:printcolumn:name="Images",type=string,priority=1,JSONPath=`.spec.template.spec.containers[*].image`
// +kubebuilder:printcolumn:name="Selector",type=string,priority=1,JSONPath=`.status.selector`
type Deployment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the desired behaviour of the deployment.
	Spec appsv1.DeploymentSpec `json:"spec"`

	// Status is what the deployment controller last saw.
	// Until then its observedGeneration is 0, so that no tool takes a new object for a settled one.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":0}
	Status DeploymentStatus `json:"status,omitempty"`
}

// DeploymentStatus is upstream's DeploymentStatus, the selector of the scale subresource and a summary
// for people.
type DeploymentStatus struct {
	appsv1.DeploymentStatus `json:",inline"`

	// Selector is spec.selector as a string, for the scale subresource.
	//
	// +optional
	Selector string `json:"selector,omitempty"`

	// Summary carries the columns of `kubectl get`; no program should read it.
	//
	// +optional
	// +kubebuilder:default={}
	Summary DeploymentSummary `json:"summary,omitempty"`
}

// DeploymentSummary is a deployment in the words of `kubectl get deployments`.
type DeploymentSummary struct {
	// Ready counts ready replicas of the desired ones, as in "2/3".
	//
	// +optional
	// +kubebuilder:default="0/0"
	Ready string `json:"ready"`
	// UpToDate counts the replicas of the current template.
	//
	// +optional
	// +kubebuilder:default=0
	UpToDate int32 `json:"upToDate"`
	// Available counts the replicas that have been ready for minReadySeconds.
	//
	// +optional
	// +kubebuilder:default=0
	Available int32 `json:"available"`
}

// DeploymentList is a list of deployments.
//
// +kubebuilder:object:root=true
type DeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Deployment `json:"items"`
}
