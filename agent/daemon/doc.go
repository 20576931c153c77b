// Package daemon keeps one process alive that has to outlive the agent: it is started in a session and a
// cgroup of its own, found again by its pid file, started anew when it dies, and stopped only when the
// node is taken down.
//
// The private containerd and the node's DNS server run under it. It knows nothing of what they do.
package daemon
