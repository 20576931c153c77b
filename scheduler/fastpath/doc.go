// Package fastpath answers upstream's Scheduler.SchedulePod for most pods at a fraction of its cost, with
// decisions that upstream's own plugins would allow and rank first.
//
// Pods that are alike to every plugin form a class (class.go). A class keeps one row per node: whether
// the plugins that look at one node only let the pod in, and their raw scores. A row is recomputed when
// its node's generation changes, so that a placement touches one node and not all of them. What static
// plugins say (taints, node affinity, unschedulable nodes, declared features) comes from upstream's own
// instances, once per shape of node; what depends on load (resources) from plain arithmetic (local.go).
//
// Topology spread and inter-pod affinity look at the whole cluster. Each of their rules is a tally: what
// every node contributes, summed up per topology domain (tally.go, spread.go, affinity.go). A touched node
// is counted anew and the difference goes into its domain.
//
// Nodes with equal rows form a group, and a placement evaluates groups (choose.go): raw scores are kept
// and normalised anew over all feasible nodes, as with percentageOfNodesToScore=100. Classes without rules
// about other pods do not even need rows: they evaluate kinds of nodes, which all classes share (nodes.go).
//
// What is known about nodes is a mirror of upstream's cache: every change of the cache notes the nodes that it
// touches, and a scheduling cycle begins by copying these (mirror.go). Upstream's snapshot, which costs more,
// is refreshed before somebody reads it: upstream's path, and its filters on promised nodes (nominated.go).
//
// Nothing is bound on this package's word alone: PreFilter and Filter of upstream's plugins confirm the
// chosen node on the mirror. Two of them visit all nodes for a pod with required rules about other
// pods, which costs what a class saves. They visit less that decides the same: required spread a cluster of
// merged nodes (merged.go), inter-pod rules the nodes that decide (nearby.go); the whole for a sample. When
// upstream disagrees, or when no node is found, upstream decides, and a metric counts the disagreement.
// Pods, profiles and moments that the package does not treat (supported.go) go upstream's way from the
// start; a metric counts the reasons.
//
// The caller is package scheduler. The package is driven by the one goroutine that runs scheduling
// cycles, never writes to the API, and keeps no state that a restart would miss.
package fastpath
