// Package cni is what the runtime's network plugin (cmd/dray-cni) and the agent (package cniserver) say
// to each other: one request and one answer as JSON over a unix socket. It also makes the network
// configuration that tells the runtime to call the plugin.
//
// It imports no Kubernetes package, so that the plugin starts in a few milliseconds.
package cni
