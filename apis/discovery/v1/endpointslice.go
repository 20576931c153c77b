package v1

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// GroupLabel on an EndpointSlice names the group of its endpoints among those of the service; slices
	// without it are of the group without a name.
	GroupLabel = "networking.drayage.dev/group"

	// WeightAnnotation on an EndpointSlice is the weight of its group, a number from 0 to MaxWeight: of the
	// connections to the service a group gets its weight's part of the sum, however many endpoints it has,
	// in steps of a thousandth. One slice of a group is enough; of several, the one with the first name
	// counts. As soon as one slice of a service has a weight, groups without get nothing. A group whose
	// endpoints are all unusable leaves its part to the others.
	WeightAnnotation = "networking.drayage.dev/weight"

	// MaxWeight is the highest weight.
	MaxWeight = 1000
)

// EndpointSlice lists endpoints of one service. Its fields are upstream's discovery/v1 EndpointSlice's.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=endpointslices,singular=endpointslice,shortName=deps,categories=drayage,scope=Namespaced
// +kubebuilder:printcolumn:name="AddressType",type=string,JSONPath=`.addressType`
// +kubebuilder:printcolumn:name="Ports",type=string,JSONPath=`.ports[*].port`
// +kubebuilder:printcolumn:name="Endpoints",type=string,JSONPath=`.endpoints[*].addresses[*]`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type EndpointSlice struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// AddressType is the type of every address in the slice: IPv4, IPv6 or FQDN.
	//
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="field is immutable"
	AddressType discoveryv1.AddressType `json:"addressType"`

	// Endpoints are the slice's endpoints, at most 1000.
	//
	// +kubebuilder:validation:MaxItems=1000
	// +optional
	// +nullable
	Endpoints []discoveryv1.Endpoint `json:"endpoints"`

	// Ports are the ports that each endpoint exposes, at most 100.
	//
	// +kubebuilder:validation:MaxItems=100
	// +optional
	// +nullable
	Ports []discoveryv1.EndpointPort `json:"ports,omitempty"`
}

// EndpointSliceList is a list of endpoint slices.
//
// +kubebuilder:object:root=true
type EndpointSliceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []EndpointSlice `json:"items"`
}
