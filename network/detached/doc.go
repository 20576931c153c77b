// Package detached keeps a process running that outlives whoever started it: the DNS server, which
// answers while the agent restarts. The process holds a lock on a file; the kernel tells who holds it,
// so there is no number in a file to trust, and no process is ever started twice or mistaken.
//
// The agent calls Keep, the process itself Lock, and whoever cleans a node Stop.
package detached
