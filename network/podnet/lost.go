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

// silentRoutes answer unreachable for a peer's pods and, to this node's pods, for its own address.
//
// Where reverse paths are filtered, two nodes that have given each other up do not answer each other. But a
// request makes the entry of who sends it STALE, which is as good as an answer, and both go on asking.
func silentRoutes(h hop) []netlink.Route {
	unreachable := func(to netip.Prefix, table int) netlink.Route {
		return netlink.Route{Dst: ipNet(to), Type: unix.RTN_UNREACHABLE, Table: table, Protocol: kernel.RouteProtocol}
	}
	return []netlink.Route{
		unreachable(h.cidr, unix.RT_TABLE_MAIN),
		unreachable(netip.PrefixFrom(h.node, h.node.BitLen()), kernel.TunnelRouteTable),
	}
}

// refuses tells whether a route answers unreachable.
func refuses(route netlink.Route) bool { return route.Type == unix.RTN_UNREACHABLE }
