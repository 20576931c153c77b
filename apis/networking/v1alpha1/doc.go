// Package v1alpha1 holds the kinds of networking.drayage.dev/v1alpha1: Allocation, a claim on one address,
// node port or pod CIDR. It owns types, never logic.
//
// +kubebuilder:object:generate=true
// +groupName=networking.drayage.dev
package v1alpha1
