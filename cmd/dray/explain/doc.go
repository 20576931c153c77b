// Package explain is `dray explain pod`: why a pod is where it is, or why it is nowhere. It reads the
// cluster, asks the scheduler's plugins in its own process, and writes nothing. cmd/dray calls it.
package explain
