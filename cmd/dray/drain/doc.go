// Package drain is `dray cordon`, `dray uncordon`, `dray drain` and `dray taint`: kubectl's own commands over
// Drayage's nodes, pods and evictions.
//
// kubectl's commands know core nodes and pods. A transport below them sends what they ask for to Drayage's
// groups and names upstream's in the answers, and a static mapping says what a node is. So flags, wording and
// the order of things are kubectl's; only the reasons of a refused eviction, which kubectl keeps to itself,
// are added to its message. Each constructor returns a command for cmd/dray.
package drain
