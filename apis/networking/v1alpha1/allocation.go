package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Allocation is a claim on one thing that a cluster has only once: a service address, a node port or a
// pod CIDR. Its name encodes the thing, so that the API server's create is the compare-and-swap and no
// leader is needed to keep two claimants apart.
//
// Names: "ip-" and the address, "nodeport-" and the number, "podcidr-" and the CIDR; dots, colons and the
// slash become dashes and IPv6 addresses are written out in full (eight groups of four digits), so that
// every name is a DNS subdomain: ip-10-96-0-1, nodeport-30080, podcidr-10-244-1-0-24.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=allocations,singular=allocation,shortName=dalloc,categories=drayage,scope=Cluster
// +kubebuilder:printcolumn:name="Value",type=string,JSONPath=`.spec.value`
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.owner.kind`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.owner.namespace`
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.owner.name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Allocation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says what is claimed, and by whom. It never changes.
	//
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="an allocation never changes: delete it and claim anew"
	Spec AllocationSpec `json:"spec"`
}

// AllocationType is what kind of thing an Allocation claims.
//
// +kubebuilder:validation:Enum=ServiceIP;NodePort;PodCIDR
type AllocationType string

const (
	// ServiceIP claims one address of the service range.
	ServiceIP AllocationType = "ServiceIP"
	// NodePort claims one port on every node.
	NodePort AllocationType = "NodePort"
	// PodCIDR claims one node's share of the pod range.
	PodCIDR AllocationType = "PodCIDR"
)

// AllocationSpec says what is claimed, and by whom.
type AllocationSpec struct {
	// Type is what kind of thing is claimed.
	Type AllocationType `json:"type"`
	// Value is the thing itself: an address, a port number, a CIDR.
	Value string `json:"value"`
	// Owner is the object that holds the claim. An allocation whose owner is gone is given back.
	Owner AllocationOwner `json:"owner"`
}

// AllocationOwner names the object that holds a claim.
type AllocationOwner struct {
	// Kind is Service or Node.
	Kind string `json:"kind"`
	// Namespace is empty for cluster-scoped owners.
	//
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Name of the owner.
	Name string `json:"name"`
	// UID of the owner: a new object of the same name is another owner. Empty on a claim that was made
	// before its owner was stored.
	//
	// +optional
	UID types.UID `json:"uid,omitempty"`
}

// AllocationList is a list of allocations.
//
// +kubebuilder:object:root=true
type AllocationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Allocation `json:"items"`
}
