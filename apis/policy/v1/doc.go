// Package v1 holds the kind of policy.drayage.dev/v1: PodDisruptionBudget. Spec and status are those of
// upstream's policy/v1 kind of the same name. The package owns types and constants, never logic.
//
// +kubebuilder:object:generate=true
// +groupName=policy.drayage.dev
package v1
