// Package node watches over Nodes: it gives each its range of pod addresses, says when an agent is not
// heard of any more, keeps pods off nodes that cannot run them, moves pods away from nodes that are gone
// for too long, and sums Nodes up for `kubectl get`.
//
// An agent is heard of by its Lease. What counts is when this process last saw a Lease change, by its own
// clock, so that clocks need not agree; after its start, and after a time in which it could not reach the
// API, every node is given the whole grace period anew. Nothing is evicted on the word of an outage.
//
// When many nodes are lost at once it is more likely that something else is broken: see throttle.go.
package node
