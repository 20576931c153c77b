// Package podworker runs the pods of one node: a worker per pod, keyed by UID, takes an ordered slice of
// idempotent, named steps each time something has changed, and another one when the pod has to end.
//
// It owns the order of things in a pod's life: admission, directories, cgroup, volumes, sandbox, init
// containers, sidecars, app containers, hooks, restarts with back-off, graceful termination. What each
// step does lives in the packages behind Config. It keeps no truth of its own: a worker can be dropped at
// any instruction and finds everything again in the API, in the runtime and in the pod's directory.
//
// cmd/dray-agent joins it. It never decides which pods should run.
package podworker
