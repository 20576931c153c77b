// Package detached keeps one process running that has to outlive the agent which started it: it is started in
// a session of its own, found again by the next agent, started anew when it dies, and ended only when
// somebody stops it.
//
// The private containerd and the node's DNS server run so. It knows nothing of what they do. A process
// of ours holds a lock on a file, of which the kernel tells who holds it, so that none is ever started twice or
// mistaken; a foreign one is found by a file with its number.
package detached
