// Package v1 holds the kinds of discovery.drayage.dev/v1: EndpointSlice. It owns types, never logic.
//
// +kubebuilder:object:generate=true
// +groupName=discovery.drayage.dev
package v1
