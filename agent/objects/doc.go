// Package objects is the node's end of the broker: it reads the stream nodes/<name>/podobjects, keeps the
// Secrets and ConfigMaps that this node's pods refer to, and asks for their service account tokens.
//
// Everything is in memory only, and nothing is asked for by name: what the control plane has not sent,
// the node cannot read. While the control plane is away the last state is served; an agent that starts
// then has nothing until it is back. Client satisfies agent.PodObjects; cmd/dray-agent/app joins it to
// the pod workers, which it tells of changes. It never writes to a disk or to the API.
package objects
