// Package cri drives pods through the container runtime interface, version 1: it is the agent's
// PodRuntime, Containers, Execs and Events over containerd. Exits come from containerd's own event
// service; a slow relist finds what events missed.
//
// Sandboxes and containers carry kubelet's labels, which is how they are found again. The package keeps a
// cache of what cannot change and no other state; it knows nothing of the API.
package cri
