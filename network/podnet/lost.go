package podnet

import (
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"drayage.dev/network/kernel"
)

// restBeforeAsking is how long an end that was silent is not asked again. Where reverse paths are filtered, two nodes that
// have given each other up do not answer each other. But to the kernel a request is as good as an answer while its own
// question is over and without one, and not while it still asks, which takes three seconds. Two nodes that both rest
// longer than they ask hear each other, unless they begin in the same moment: so it varies by a half.
const restBeforeAsking = 5 * time.Second

// question is what is known of the far end of the tunnel to a lost peer: it has been asked whether it is there.
type question struct {
	// silent says that it gave no answer the last time that this was over.
	silent bool
	// rest is until when a silent end is not asked again; zero while it is asked.
	rest time.Time
}

// ask has the kernel find out whether the far end of the tunnel to a lost peer is there, as it does by itself on a
// direct link. is is the state of the end's entry, 0 without one or with a failed one (which has no hardware
// address any more); wanted is the one that it is to have, and answer what
// is known by now; a wanted state of 0 leaves the entry as it is.
//
// Usually the entry is permanent: nobody is asked, and nobody is given up by mistake. The API says which peers
// there is doubt about. Their entries are set to PROBE, upon which the kernel sends ARP requests (IPv6: neighbour
// solicitations) to the address that it knows, three in three seconds, and the entry becomes REACHABLE or FAILED. Only
// a machine or a way that is down makes it FAILED; an agent that is down does not, and pods go on without one.
// After a start of the agent everybody counts as there until asked.
func (m *Manager) ask(h hop, is int) (wanted int, answer question) {
	before, asked := m.asked[h.cidr]
	wanted, answer = netlink.NUD_PROBE, before
	// Without traffic the kernel may collect an entry that has failed.
	failed := is == 0 || is&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) != 0
	switch now := time.Now(); {
	case !asked || is&netlink.NUD_PERMANENT != 0:
	case is&netlink.NUD_PROBE != 0: // not over yet
	case !failed:
		answer = question{}
	case before.rest.IsZero():
		wanted, answer = 0, question{silent: true, rest: now.Add(wait.Jitter(restBeforeAsking, 0.5))}
	case now.Before(before.rest):
		wanted = 0
	default:
		answer.rest = time.Time{}
	}
	if answer.silent != before.silent {
		m.cfg.Log.Info("A lost node's end of the tunnel fell silent or answers again", "node", h.node, "pods", h.cidr, "silent", answer.silent)
	}
	return wanted, answer
}

// silentRoutes answer unreachable for a peer's pods and, to this node's pods, for its own address.
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
