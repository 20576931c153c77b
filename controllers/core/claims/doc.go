// Package claims takes, lists and gives back Allocations in the name of Services and Nodes.
//
// The service and node controllers call it. A claim is made before it is written into its owner's spec,
// and given back after it has left the spec, so that at no instant two specs hold one thing. A
// controller that is killed in between leaves a claim that no spec shows: the next pass over its owner
// finds it by the owner and uses it or gives it back, and Sweep gives back what owners that are gone
// have left.
//
// The package never chooses what to claim and never writes to an owner.
package claims
