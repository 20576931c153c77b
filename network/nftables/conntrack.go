package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/spec"
)

// staleFlows returns the UDP frontends among next whose endpoints have changed, with the endpoints that
// serve from now on. A UDP flow would stick to an endpoint that is gone for as long as the client keeps
// sending. TCP connections are left to end by themselves; those that have not begun yet wait for Forget.
// Unless next is the whole, what it does not name stays as it was.
func (t *Table) staleFlows(next map[spec.Key]*spec.Frontend, whole bool) flows {
	stale := flows{}
	now := func(key spec.Key) *spec.Frontend {
		if f, ok := next[key]; ok || whole {
			return f
		}
		return t.applied[key]
	}
	for key, f := range next {
		if !key.Addr.Is4() || t.applied[key].Equal(f) {
			continue
		}
		switch key.Proto {
		case unix.IPPROTO_UDP:
			stale[netip.AddrPortFrom(key.Addr, key.Port)] = serving(key, now)
		case unix.IPPROTO_TCP:
			t.unanswered[netip.AddrPortFrom(key.Addr, key.Port)] = struct{}{}
		}
	}
	return stale
}

// Forget makes the kernel forget the TCP connections to endpoints that have left their frontends and have not
// answered: their clients' next packet goes to an endpoint that serves, where it would follow the first one to
// a pod that is gone. An answer may be on its way still when an endpoint leaves, so the caller waits a little.
func (t *Table) Forget() error {
	if len(t.unanswered) == 0 {
		return nil
	}
	now := func(key spec.Key) *spec.Frontend { return t.applied[key] }
	stale := flows{}
	for frontend := range t.unanswered {
		stale[frontend] = serving(spec.Key{Addr: frontend.Addr(), Proto: unix.IPPROTO_TCP, Port: frontend.Port()}, now)
	}
	if err := t.ns.Do(func() error { return deleteUnanswered(stale) }); err != nil {
		return fmt.Errorf("forgetting connections that endpoints that are gone have not answered: %w", err)
	}
	t.unanswered = map[netip.AddrPort]struct{}{} // the first had room for all frontends
	return nil
}

// serving are the endpoints behind a frontend's address, for clients inside and all others: a flow does
// not tell whose it is.
func serving(key spec.Key, now func(spec.Key) *spec.Frontend) []netip.AddrPort {
	key.Inside = false
	all := slices.Clone(now(key).Endpoints())
	key.Inside = true
	return append(all, now(key).Endpoints()...)
}

// frontendOf reads the key of a frontend, of whichever plane, from its element of the svc map.
func frontendOf(e element) (spec.Key, bool) {
	if e.set != everybody.index(setServices) && e.set != inside.index(setServices) {
		return spec.Key{}, false
	}
	return spec.Key{
		Addr: netip.AddrFrom4([4]byte(e.key[:4])), Proto: e.key[4],
		Port: binary.BigEndian.Uint16(e.key[8:10]),
	}, true
}

// flows maps frontends to the endpoints whose flows may stay.
type flows map[netip.AddrPort][]netip.AddrPort

// MatchConntrackFlow tells which flows to delete.
func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	frontend, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	endpoint, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return f.gone(netip.AddrPortFrom(frontend.Unmap(), flow.Forward.DstPort), netip.AddrPortFrom(endpoint.Unmap(), flow.Reverse.SrcPort))
}

// gone tells whether the frontend is one of these and the endpoint does not serve it.
func (f flows) gone(frontend, endpoint netip.AddrPort) bool {
	serving, ok := f[frontend]
	return ok && !slices.Contains(serving, endpoint)
}

func (t *Table) deleteFlows(stale flows) error {
	if len(stale) == 0 {
		return nil
	}
	if _, err := t.conntrack.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, stale); err != nil {
		return fmt.Errorf("deleting UDP flows of endpoints that are gone: %w", err)
	}
	return nil
}
