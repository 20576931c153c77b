// Package agent declares the boundaries of the node agent: the small interfaces behind which a container
// runtime, the node's network and the broker of a pod's objects stand, and the data that crosses them.
//
// The parts of the agent live below it: podworker drives pods, runtime/cri and runtime/scripted are
// runtimes, containerd keeps the runtime's daemon alive, node reports the machine. cmd/dray-agent/app
// joins them. This package holds no behaviour, and imports none of those parts.
package agent
