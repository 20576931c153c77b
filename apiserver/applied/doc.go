// Package applied remembers which revision of the EndpointSlices each node's kernel has, as the nodes
// report it, and lets a caller wait until every Ready node has one. A terminating pod's node asks before
// it stops the pod, so that no other node sends it new connections any more.
//
// There is a ledger per replica of the API, and what a node reports to one a relay passes on to the others.
//
// The aggregated API calls it. It keeps everything in memory and writes nothing: what is not known, after
// a restart for instance, counts as not acknowledged, and whoever waits does so for a bounded time.
package applied
