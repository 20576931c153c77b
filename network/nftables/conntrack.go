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
// sending; TCP connections are left to end by themselves.
func (t *Table) staleFlows(next map[spec.Key]*spec.Frontend) flows {
	stale := flows{}
	for key, f := range next {
		old := t.applied[key]
		if key.Proto != unix.IPPROTO_UDP || !key.Addr.Is4() || old.Equal(f) {
			continue
		}
		var serving []netip.AddrPort
		if f != nil {
			serving = f.Slots
		}
		stale[netip.AddrPortFrom(key.Addr, key.Port)] = serving
	}
	return stale
}

// udpFrontend reads the key of a UDP frontend from its element of the svc map.
func udpFrontend(e element) (spec.Key, bool) {
	if e.set != setServices || e.key[4] != unix.IPPROTO_UDP {
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
