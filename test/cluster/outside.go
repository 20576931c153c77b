package cluster

import (
	"fmt"
	"net/netip"
)

// outsideHost is the last byte of the outside's address on the first link of the fabric.
const outsideHost = 200

// Outside is a machine beside the cluster: on the nodes' link, but no node, and without a route to any
// address of pods or services.
type Outside struct {
	// Address is the machine's.
	Address netip.Addr
	*Namespace
}

// NewOutside makes the outside of the cluster, once. It goes with the cluster.
func (c *Cluster) NewOutside() (*Outside, error) {
	address := subnets[0].host(outsideHost)
	namespace, err := c.newHost("outside", 0, address)
	if namespace != nil {
		c.namespace = append(c.namespace, namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("making the outside: %w", err)
	}
	return &Outside{Address: address, Namespace: namespace}, nil
}

// RouteTo makes a node the way to an address.
func (o *Outside) RouteTo(address netip.Addr, by *Node) error {
	return o.route(netip.PrefixFrom(address, address.BitLen()), by.Address)
}
