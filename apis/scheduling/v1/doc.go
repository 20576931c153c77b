// Package v1 holds the kinds of scheduling.drayage.dev/v1: PriorityClass. It owns types, never logic.
//
// +kubebuilder:object:generate=true
// +groupName=scheduling.drayage.dev
package v1
