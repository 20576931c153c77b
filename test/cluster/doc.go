// Package cluster starts whole Drayage clusters for specs and benchmarks: a control plane and any number
// of nodes on one machine, every component a process of its own that can be killed, stopped and started
// again.
//
// Each cluster lives in network namespaces that it made itself: one for the control plane, one per node,
// joined by a bridge in a fabric namespace. None of them has a route to the outside. Each node has its own
// container runtime, directories and cgroup, and its own registry of test images on its loopback. Close
// removes all of it. It needs root and the binaries of `make build`.
package cluster
