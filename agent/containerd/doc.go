// Package containerd keeps a containerd of the agent's own: it writes its configuration, starts it in a
// session and a cgroup of its own, so that it outlives the agent, finds it again by its pid file, starts
// it anew when it dies, and stops it when the node is taken down.
//
// cmd/dray-agent runs it; runtime/cri talks to its socket. It never touches a containerd of the host's,
// nor any container.
package containerd
