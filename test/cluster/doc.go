// Package cluster starts whole Drayage clusters for specs and benchmarks: a control plane and any number
// of nodes on one machine, every component a process of its own that can be killed, stopped and started
// again.
//
// Each cluster lives in network namespaces that it made itself: one for the control plane, one per node,
// joined by a bridge in a fabric namespace. None of them has a route to the outside. Each node has its own
// container runtime, directories and cgroup, and its own registry of test images on its loopback. Close
// removes all of it. It needs root and the binaries of `make build`.
//
// A node is a machine as far as processes can tell: a PID and a mount namespace with a /run of its own, in
// which agent, runtime, DNS server and containers run. So every process of it can be killed alone, by the
// number that the host knows it by; and a power cut is the end of the namespace's first process, with which the
// kernel ends all others and drops their mounts, while the data directory stays. The agent is started from
// outside into the namespaces, not by their first process, so that the harness is its parent and sees its end.
// A node shares the host's kernel: its cgroups are the host's, which the harness removes after a power cut, and
// its boot id does not change.
package cluster
