package podnet

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// question is what is known of the far end of the tunnel to a lost peer: it has been asked whether it is there,
// and was silent the last time that this was over.
type question struct{ silent bool }

// ask has the kernel find out whether the far end of the tunnel to a lost peer is there, as it does by itself on a
// direct link. is is the state of the end's entry, 0 without one or with a failed one (which has no hardware
// address any more); wanted is the one that it is to have, and answer what
// is known by now.
//
// Usually the entry is permanent: nobody is asked, and nobody is given up by mistake. The API says which peers
// there is doubt about. Their entries are set to PROBE, upon which the kernel sends ARP requests (IPv6: neighbour
// solicitations) to the address that it knows, three in three seconds, and the entry becomes REACHABLE or FAILED. Only
// a machine or a way that is down makes it FAILED; an agent that is down does not, and pods go on without one.
// After a start of the agent everybody counts as there until asked.
func (m *Manager) ask(h hop, is int) (wanted int, answer question) {
	answer, asked := m.asked[h.cidr]
	before := answer
	switch {
	case !asked || is&netlink.NUD_PERMANENT != 0:
	case is&netlink.NUD_PROBE != 0:
		return netlink.NUD_PROBE, answer // not over yet
	default:
		// Without traffic the kernel may collect an entry that has failed.
		answer.silent = is == 0 || is&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) != 0
	}
	if answer != before {
		m.cfg.Log.Info("A lost node's end of the tunnel fell silent or answers again", "node", h.node, "pods", h.cidr, "silent", answer.silent)
	}
	return netlink.NUD_PROBE, answer
}

// silentRoutes answer unreachable for a peer's pods and, to this node's pods, for its own address. Its end
// of the tunnel keeps a route: where reverse paths are filtered, the kernel answers ARP requests only of addresses
// that it has a route to, and two nodes that have given each other up would not find each other again.
func (m *Manager) silentRoutes(h hop, tunnel int) []netlink.Route {
	unreachable := func(to netip.Prefix, table int) netlink.Route {
		return netlink.Route{Dst: ipNet(to), Type: unix.RTN_UNREACHABLE, Table: table, Protocol: kernel.RouteProtocol}
	}
	end := m.peerRoute(netip.PrefixFrom(h.cidr.Addr(), h.cidr.Addr().BitLen()), h.cidr.Addr(), tunnel)
	end.Flags = int(netlink.FLAG_ONLINK)
	return []netlink.Route{
		end,
		unreachable(h.cidr, unix.RT_TABLE_MAIN),
		unreachable(netip.PrefixFrom(h.node, h.node.BitLen()), kernel.TunnelRouteTable),
	}
}

// refuses tells whether a route answers unreachable.
func refuses(route netlink.Route) bool { return route.Type == unix.RTN_UNREACHABLE }
