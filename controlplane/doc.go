// Package controlplane is the embedded control plane of `dray up` and `dray server`: etcd and Kubernetes'
// generic API server in one process, without core pods, nodes and services, so that Drayage's kinds are the
// only ones of their names.
//
// Run serves until its context ends and can be killed at any line: the next start from the same data
// directory finds everything there. What is specific to the product comes in through Config: definitions
// of kinds, bootstrap objects, admission plugins, API groups. Package controlplane never decides anything
// about pods.
package controlplane
