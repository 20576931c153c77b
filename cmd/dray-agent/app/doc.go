// Package app joins the parts of a node: the agent's pod workers and their leaves, the container runtime
// and its daemon, the node's network, the broker of the pods' objects and the streaming server.
//
// The command dray-agent, `dray agent` and `dray up` call Run; `dray clean-node` calls Clean. It holds no
// logic of its own beside the order in which things start and stop.
package app
