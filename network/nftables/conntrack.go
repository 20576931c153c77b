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
// sending; TCP connections are left to end by themselves. Unless next is the whole, what it does not
// name stays as it was.
func (t *Table) staleFlows(next map[spec.Key]*spec.Frontend, whole bool) flows {
	stale := flows{}
	now := func(key spec.Key) *spec.Frontend {
		if f, ok := next[key]; ok || whole {
			return f
		}
		return t.applied[key]
	}
	for key, f := range next {
		if key.Proto != unix.IPPROTO_UDP || !key.Addr.Is4() || t.applied[key].Equal(f) {
			continue
		}
		stale[netip.AddrPortFrom(key.Addr, key.Port)] = serving(key, now)
	}
	return stale
}

// serving are the endpoints behind a frontend's address, for clients inside and all others: a flow does
// not tell whose it is.
func serving(key spec.Key, now func(spec.Key) *spec.Frontend) []netip.AddrPort {
	key.Inside = false
	all := slices.Clone(now(key).Endpoints())
	key.Inside = true
	return append(all, now(key).Endpoints()...)
}

// udpFrontend reads the key of a UDP frontend, of whichever plane, from its element of the svc map.
func udpFrontend(e element) (spec.Key, bool) {
	if e.set != everybody.set(setServices) && e.set != inside.set(setServices) || e.key[4] != unix.IPPROTO_UDP {
		return spec.Key{}, false
	}
	return spec.Key{
		Addr: netip.AddrFrom4([4]byte([]byte(e.key[:4]))), Proto: unix.IPPROTO_UDP,
		Port: binary.BigEndian.Uint16([]byte(e.key[8:10])),
	}, true
}

// flows maps frontends to the endpoints whose flows may stay.
type flows map[netip.AddrPort][]netip.AddrPort

// MatchConntrackFlow tells which flows to delete.
func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	frontend, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok {
		return false
	}
	serving, ok := f[netip.AddrPortFrom(frontend.Unmap(), flow.Forward.DstPort)]
	if !ok {
		return false
	}
	endpoint, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return !slices.Contains(serving, netip.AddrPortFrom(endpoint.Unmap(), flow.Reverse.SrcPort))
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
