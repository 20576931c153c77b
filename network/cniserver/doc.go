// Package cniserver answers the runtime's network plugin (cmd/dray-cni) on a unix socket, by way of the
// agent's pod network. The agent runs it after it has restored the network and before it starts pods.
// It knows nothing of links and addresses itself.
package cniserver
