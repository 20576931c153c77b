// Package single is the one machine of specs that run an agent, without a fabric or other nodes: a network
// namespace that leads nowhere, a control plane in the test's process and a registry at the machine's loopback. The specs
// of cmd/dray-agent and test/slot call it; what the agent does there is theirs to say.
package single
