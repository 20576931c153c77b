// Package v1 holds the kinds of core.drayage.dev/v1: Pod, Node and Service.
//
// Every kind carries the spec of the upstream core/v1 kind of the same name, field for field, and its
// status with a few fields beside it. The package owns types and constants, never logic: conversions
// live in drayage.dev/internal/upstream, defaulting and validation in drayage.dev/internal/admission.
//
// +kubebuilder:object:generate=true
// +groupName=core.drayage.dev
package v1
