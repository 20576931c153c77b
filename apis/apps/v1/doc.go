// Package v1 holds the kinds of apps.drayage.dev/v1: Deployment and ReplicaSet. Spec and status are those
// of upstream's apps/v1 kinds of the same names. The package owns types and constants, never logic.
//
// +kubebuilder:object:generate=true
// +groupName=apps.drayage.dev
package v1
