// Package pod is `dray-agent pod`: the agent as a pod of somebody else's cluster. Its process is the
// container's, and does what has to be done from inside: it copies the binaries of its image to the machine,
// keeps the pod's identity readable there, and runs the agent itself, as its child, in the machine's mount
// namespace, so that the agent, its container runtime and its pods see one file system and mount into one.
//
// The agent stays in the pod's cgroup and dies with it; what it starts moves to the slot's cgroup, beside the
// cluster's pods, and goes on. Package app is the agent and knows nothing of this.
package pod
