// Package node reports the machine: it registers the Node object with what the machine has, keeps its
// Lease, and writes its status when it changes.
//
// cmd/dray-agent runs it. It decides nothing about pods, and never writes another node's objects.
package node
