// Package dns answers the names of Drayage's services on one node: services, headless services and
// their pods, ports (SRV), addresses (PTR), pods' addresses, external names; everything else it asks of
// the node's own name servers and remembers for a while.
//
// It runs in a process of its own (cmd/dray-dns), so that names resolve while the agent restarts, and
// it answers from what it heard last while the API is away. It listens on the cluster's DNS address,
// which it makes an address of its own node by a local route; it never touches nftables or pods.
package dns
