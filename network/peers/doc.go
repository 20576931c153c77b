// Package peers follows the cluster's Nodes and tells the node's pod network which other nodes there
// are, where they are reached and which pods are behind them. The agent's command runs it. It writes
// nothing, to the kernel or to the API, and decides nothing about routes.
package peers
