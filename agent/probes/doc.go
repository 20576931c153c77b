// Package probes watches over running containers by their startup, readiness and liveness probes.
//
// The agent calls Watch when a container runs, Forget when it does not any more, and hears of changes by
// callback. Probes themselves are upstream's (http, tcp, exec, grpc), sent from the network namespace
// that the process lives in. What follows from a result (restart, conditions, endpoints) is the
// caller's business; the package never touches a container but by exec probes.
package probes
