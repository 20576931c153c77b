// Package v1alpha1 names the aggregated API subresources.drayage.dev/v1alpha1 and the messages of its
// streams. Nothing of it is stored. It owns types and constants, never logic.
//
// +groupName=subresources.drayage.dev
package v1alpha1
