package v1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node is a machine, or a slot of one, that runs pods. Spec and status are upstream's core/v1 Node's.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=nodes,singular=node,shortName=dno,categories=drayage,scope=Cluster
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.summary.status`
// +kubebuilder:printcolumn:name="Roles",type=string,JSONPath=`.status.summary.roles`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.nodeInfo.kubeletVersion`
// +kubebuilder:printcolumn:name="Internal-IP",type=string,priority=1,JSONPath=`.status.addresses[?(@.type=="InternalIP")].address`
// +kubebuilder:printcolumn:name="OS-Image",type=string,priority=1,JSONPath=`.status.nodeInfo.osImage`
// +kubebuilder:printcolumn:name="Kernel-Version",type=string,priority=1,JSONPath=`.status.nodeInfo.kernelVersion`
// +kubebuilder:printcolumn:name="Container-Runtime",type=string,priority=1,JSONPath=`.status.nodeInfo.containerRuntimeVersion`
type Node struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says how the node may be used: pod CIDR, taints, cordon.
	//
	// +optional
	Spec corev1.NodeSpec `json:"spec,omitempty"`

	// Status is what the node's agent last reported; the node controller marks it Unknown when the
	// agent's lease runs out.
	// Until then its observedGeneration is 0, so that no tool takes a new object for a settled one.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":0}
	Status NodeStatus `json:"status,omitempty"`
}

// NodeStatus is upstream's NodeStatus, the observed generation and a summary for people.
type NodeStatus struct {
	corev1.NodeStatus `json:",inline"`

	// ObservedGeneration is the generation of the spec that the status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Summary carries the columns of `kubectl get`. Its writer is the node controller; no program
	// should read it.
	//
	// +optional
	Summary NodeSummary `json:"summary,omitempty"`
}

// NodeSummary is a node in the words of `kubectl get nodes`.
type NodeSummary struct {
	// Status is Ready, NotReady or Unknown, with ",SchedulingDisabled" behind it on a cordoned node.
	//
	// +optional
	Status string `json:"status"`
	// Roles are the node's roles from its node-role.kubernetes.io/ labels, or "<none>".
	//
	// +optional
	Roles string `json:"roles"`
}

// NodeList is a list of nodes.
//
// +kubebuilder:object:root=true
type NodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Node `json:"items"`
}
