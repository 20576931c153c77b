// Package startup is the scheduler plugin Startup: it keeps pods off nodes that cannot start any, and prefers those
// where a pod starts soonest.
//
// Agents need write nothing for it. That a node cannot start pods is its condition Ready, which its agent sets
// when the container runtime or the network of pods is unwell; the taint that follows comes from the node
// controller later, and pods may tolerate it. How many pods wait to start on a node is what their agents say of
// their phases: a pod is Pending until all of its containers have started. Which images a node has is in its status.
//
// Package scheduler registers the plugin; package fastpath computes the same scores from its rows. The plugin never
// looks at anything but the node and its pods.
package startup
