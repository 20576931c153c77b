package podnet

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// TunnelPort is the UDP port over which nodes reach each other's pods that share no link.
const TunnelPort = tunnelPort

// Way is how packets get from this node to the pods of another.
type Way struct {
	Peer Peer
	// Tunnel says that they go through the tunnel, to End, which is the peer's; else they go straight to
	// the peer's address.
	Tunnel bool
	End    netip.Addr
	// MTU is the largest packet that pods may send there, in bytes.
	MTU int
}

// Inspect looks for what is not in the kernel although it should be, and changes nothing: a sentence for
// each, and the ways to all peers.
func (m *Manager) Inspect() (defects []string, ways []Way, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.cidrs) == 0 {
		return []string{"the node has no pod addresses yet (spec.podCIDR is empty): the node controller assigns them; is the manager running?"}, nil, nil
	}
	if !m.heard {
		return []string{"the node has not heard of the other nodes yet: its agent does not reach the API server"}, nil, nil
	}
	uplink, err := m.uplink()
	if err != nil {
		return nil, nil, fmt.Errorf("finding the uplink: %w", err)
	}
	routes, err := listRoutes(m.handle, netlink.FAMILY_ALL,
		&netlink.Route{Protocol: kernel.RouteProtocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, nil, fmt.Errorf("listing routes: %w", err)
	}
	defects = append(m.missingRanges(routes), m.missingPods(routes)...)
	if uplink == nil {
		if len(m.peers) > 0 {
			defects = append(defects, fmt.Sprintf("no link of the node has its address %s, and there is no default route: no other node is reached", m.nodeAddress(m.cidrs[0].Addr())))
		}
		return defects, nil, nil
	}
	for _, peer := range m.peers {
		for _, cidr := range peer.PodCIDRs {
			h := hop{cidr: cidr.Masked(), node: peer.address(cidr.Addr().Is4())}
			if !m.acceptable(h.cidr) || !h.node.IsValid() {
				defects = append(defects, fmt.Sprintf("the pod range %s of node %s lies outside the cluster's ranges or within this node's own, and is ignored", cidr, peer.Name))
				continue
			}
			way, defect := m.inspectHop(peer, h, uplink, routes)
			if defect != "" {
				defects = append(defects, defect)
			}
			ways = append(ways, way)
		}
	}
	return defects, ways, nil
}

// missingRanges looks for the routes that keep packets to addresses that nothing serves on the node.
func (m *Manager) missingRanges(routes []netlink.Route) (defects []string) {
	has := map[string]bool{}
	for _, route := range routes {
		if route.Type == unix.RTN_UNREACHABLE && route.Dst != nil {
			has[route.Dst.String()] = true
		}
	}
	for what, ranges := range map[string][]netip.Prefix{"pods": m.cfg.PodRanges, "services": m.cfg.ServiceRanges} {
		for _, prefix := range ranges {
			if !has[ipNet(prefix.Masked()).String()] {
				defects = append(defects, fmt.Sprintf(
					"the unreachable route for the range of %s %s is missing: packets to addresses that nothing serves leave the node by its default route", what, prefix))
			}
		}
	}
	return defects
}

// missingPods looks for routes to this node's pods.
func (m *Manager) missingPods(routes []netlink.Route) (defects []string) {
	to := map[string]bool{}
	for _, route := range routes {
		if route.Gw == nil && route.Type == unix.RTN_UNICAST && route.Dst != nil {
			to[route.Dst.IP.String()] = true
		}
	}
	for _, lease := range m.pool.Leases() {
		if !to[lease.Address.String()] {
			defects = append(defects, fmt.Sprintf("the route to the node's own pod %s (%s, over link %s) is missing", lease.Address, lease.Note, kernel.LinkName(lease.Owner)))
		}
	}
	return defects
}

// inspectHop compares one peer's route with what it should be.
func (m *Manager) inspectHop(peer Peer, h hop, uplink netlink.Link, routes []netlink.Route) (way Way, defect string) {
	way = Way{Peer: peer, MTU: uplink.Attrs().MTU}
	wanted := m.directRoute(h, uplink)
	via := uplink.Attrs().Name
	if !m.onLink(&h, uplink) {
		way.Tunnel, way.End = true, h.cidr.Addr()
		way.MTU -= overhead(h.node)
		via = kernel.TunnelLink
		link, err := m.handle.LinkByName(kernel.TunnelLink)
		if err != nil {
			return way, fmt.Sprintf("the tunnel %s to node %s is missing", kernel.TunnelLink, peer.Name)
		}
		if link.Attrs().RawFlags&unix.IFF_UP == 0 {
			return way, fmt.Sprintf("the tunnel %s to node %s is down", kernel.TunnelLink, peer.Name)
		}
		if inner := h.pathMTU - overhead(h.node); h.pathMTU > 0 && inner < way.MTU {
			way.MTU = inner
		}
		if m.asked[h.cidr].silent {
			return way, fmt.Sprintf("node %s is silent: the API has not heard of it for its grace period, its end of the tunnel does not answer, and packets to its pods %s are answered unreachable", peer.Name, h.cidr)
		}
		wanted = m.peerRoute(h.cidr, h.cidr.Addr(), link.Attrs().Index)
	}
	for _, route := range routes {
		if route.Table == unix.RT_TABLE_MAIN && route.Gw != nil && route.Dst != nil && route.Dst.String() == wanted.Dst.String() {
			if route.LinkIndex == wanted.LinkIndex && route.Gw.Equal(wanted.Gw) {
				return way, ""
			}
			return way, fmt.Sprintf("the route to the pods of node %s is wrong: %s goes by way of %s, it should by way of %s over %s", peer.Name, h.cidr, route.Gw, wanted.Gw, via)
		}
	}
	return way, fmt.Sprintf("the route to the pods of node %s is missing: %s by way of %s over %s", peer.Name, h.cidr, wanted.Gw, via)
}
