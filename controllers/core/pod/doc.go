// Package pod collects pods that no agent will ever end: it takes the node's finalizer off terminating
// pods that never had a node, whose node is gone, or that are to go at once; it deletes pods that are
// bound to a node that does not exist, and the oldest of the completed ones beyond a bound. The rules are
// upstream's pod garbage collector's.
//
// Where an agent is alive the pod is its business alone: an agent that finds a pod running which the API
// does not know ends it.
package pod
