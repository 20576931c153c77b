package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

const (
	// tunnelNetwork is the tunnel's VXLAN network identifier and tunnelPort its UDP port: neither is
	// one that another pod network uses by default, so that Drayage's nodes may be a host cluster's.
	tunnelNetwork = 142
	tunnelPort    = 14789

	// Bytes that the tunnel adds to a packet: outer IP and UDP headers, VXLAN's and the inner Ethernet's.
	overhead4 = 50
	overhead6 = 70
)

// tunnelMAC is the hardware address of a node's end of the tunnel. It follows from the node's address,
// so that nobody has to tell it.
func tunnelMAC(node netip.Addr) net.HardwareAddr {
	bytes := node.AsSlice()
	return append(net.HardwareAddr{0x0a, 0xd4}, bytes[len(bytes)-4:]...)
}

func overhead(node netip.Addr) int {
	if node.Is4() {
		return overhead4
	}
	return overhead6
}

// tunnelTo makes the tunnel and its entries for the peers, and returns the routes that lead there:
//
//   - the peer's pods, by way of the first address of their range, which stands for the peer's end;
//   - for packets of pods, the peer's own address, so that it sees the pod's address although no router
//     on the way knows it, and answers the same way.
//
// For a lost peer whose end is silent they lead nowhere. It deletes nothing that is in use: pruneTunnel does.
func (m *Manager) tunnelTo(hops []hop, uplink netlink.Link) ([]netlink.Route, error) {
	asked := map[netip.Prefix]question{}
	if len(hops) == 0 {
		m.asked = asked
		return nil, nil
	}
	link, err := m.tunnelLink(uplink)
	if err != nil {
		return nil, err
	}
	index, mtu := link.Attrs().Index, link.Attrs().MTU
	entries, err := m.tunnelEntries(index)
	if err != nil {
		return nil, err
	}
	var routes []netlink.Route
	for _, h := range hops {
		for _, entry := range hopEntries(index, h) {
			is := entries[entryKey(entry)].State
			if h.lost && entry.Family != unix.AF_BRIDGE {
				entry.State, asked[h.cidr] = m.ask(h, is)
			}
			if entry.State != 0 && is&entry.State == 0 {
				if err := m.handle.NeighSet(&entry); err != nil {
					return nil, fmt.Errorf("telling the tunnel where %s is: %w", h.node, err)
				}
			}
		}
		if asked[h.cidr].silent {
			routes = append(routes, silentRoutes(h)...)
			continue
		}
		pods := m.peerRoute(h.cidr, h.cidr.Addr(), index)
		node := m.peerRoute(netip.PrefixFrom(h.node, h.node.BitLen()), h.cidr.Addr(), index)
		node.Table, node.Src = kernel.TunnelRouteTable, nil
		for _, route := range []netlink.Route{pods, node} {
			route.Flags = int(netlink.FLAG_ONLINK)
			if inner := h.pathMTU - overhead(h.node); h.pathMTU > 0 && inner < mtu {
				route.MTU = inner
			}
			routes = append(routes, route)
		}
	}
	m.asked = asked
	return routes, m.tunnelRules()
}

// tunnelLink makes the VXLAN device. One that is not as it should be is made anew.
func (m *Manager) tunnelLink(uplink netlink.Link) (netlink.Link, error) {
	if len(m.cfg.NodeAddresses) == 0 {
		return nil, errors.New("making the tunnel: the node has no address")
	}
	own := m.cfg.NodeAddresses[0]
	mtu := uplink.Attrs().MTU - overhead(own)
	link, err := m.handle.LinkByName(kernel.TunnelLink)
	if err == nil && !asTunnel(link, own) {
		if err := m.handle.LinkDel(link); err != nil {
			return nil, fmt.Errorf("deleting link %s: %w", kernel.TunnelLink, err)
		}
		link, err = nil, netlink.LinkNotFoundError{}
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = kernel.TunnelLink, mtu, tunnelMAC(own)
		if err := m.handle.LinkAdd(&netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: tunnelNetwork, Port: tunnelPort, SrcAddr: own.AsSlice(), Learning: false,
		}); err != nil {
			return nil, fmt.Errorf("making link %s: %w", kernel.TunnelLink, err)
		}
		link, err = m.handle.LinkByName(kernel.TunnelLink)
	}
	if err != nil {
		return nil, fmt.Errorf("finding link %s: %w", kernel.TunnelLink, err)
	}
	if link.Attrs().MTU != mtu {
		if err := m.handle.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("setting the MTU of %s to %d: %w", kernel.TunnelLink, mtu, err)
		}
		link.Attrs().MTU = mtu
	}
	return link, m.openTunnel(link)
}

func asTunnel(link netlink.Link, own netip.Addr) bool {
	tunnel, ok := link.(*netlink.Vxlan)
	return ok && tunnel.VxlanId == tunnelNetwork && tunnel.Port == tunnelPort && !tunnel.Learning &&
		tunnel.SrcAddr.Equal(own.AsSlice()) && link.Attrs().HardwareAddr.String() == tunnelMAC(own).String()
}

// openTunnel gives the device the first address of the node's range, which masqueraded packets leave
// with, and sets it up.
func (m *Manager) openTunnel(link netlink.Link) error {
	if err := m.ns.Do(func() error {
		// Packets of a peer that has just changed between link and tunnel may still come the other way.
		return errors.Join(
			kernel.WriteSysctl("ipv4/conf/"+kernel.TunnelLink+"/forwarding", "1"),
			kernel.WriteSysctl("ipv4/conf/"+kernel.TunnelLink+"/rp_filter", "2"),
			kernel.WriteSysctl("ipv4/conf/"+kernel.TunnelLink+"/send_redirects", "0"))
	}); err != nil {
		return err
	}
	for _, cidr := range m.cidrs {
		address := &netlink.Addr{IPNet: single(cidr.Masked().Addr())}
		if cidr.Addr().Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := m.handle.AddrReplace(link, address); err != nil {
			return fmt.Errorf("giving %s the address %s: %w", kernel.TunnelLink, address.IPNet, err)
		}
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		if err := m.handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("setting link %s up: %w", kernel.TunnelLink, err)
		}
	}
	return nil
}

// tunnelRules lead packets of this node's pods to the table of addresses behind the tunnel.
func (m *Manager) tunnelRules() error {
	var errs []error
	for _, cidr := range m.cidrs {
		rule := netlink.NewRule()
		rule.Family, rule.Src = family(cidr.Addr()), ipNet(cidr.Masked())
		rule.Table, rule.Priority, rule.Protocol = kernel.TunnelRouteTable, kernel.TunnelRulePriority, kernel.RouteProtocol
		if err := m.handle.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("adding the routing rule from %s: %w", cidr, err))
		}
	}
	return errors.Join(errs...)
}

// hopEntries are what the device has to know of a peer: the hardware address of its end, and where
// packets to that go.
func hopEntries(link int, h hop) []netlink.Neigh {
	mac := tunnelMAC(h.node)
	return []netlink.Neigh{
		{LinkIndex: link, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: h.node.AsSlice(), HardwareAddr: mac},
		{LinkIndex: link, Family: family(h.cidr.Addr()), State: netlink.NUD_PERMANENT, IP: h.cidr.Addr().AsSlice(), HardwareAddr: mac},
	}
}

func entryKey(entry netlink.Neigh) string {
	return fmt.Sprintf("%d %s %s", entry.Family, entry.IP, entry.HardwareAddr)
}

// tunnelEntries are what the device knows: for good, or of lost peers.
func (m *Manager) tunnelEntries(link int) (map[string]netlink.Neigh, error) {
	entries := map[string]netlink.Neigh{}
	for _, kind := range []int{unix.AF_BRIDGE, netlink.FAMILY_V4, netlink.FAMILY_V6} {
		found, err := kernel.Listed(func() ([]netlink.Neigh, error) { return m.handle.NeighList(link, kind) })
		if err != nil {
			return nil, fmt.Errorf("listing the tunnel's entries: %w", err)
		}
		for _, entry := range found {
			if entry.State&netlink.NUD_NOARP == 0 { // the kernel's own, of multicast addresses
				entry.Family = kind
				entries[entryKey(entry)] = entry
			}
		}
	}
	return entries, nil
}

// pruneTunnel forgets peers that the tunnel does not lead to any more, and takes it down with the last.
func (m *Manager) pruneTunnel(hops []hop) error {
	link, err := m.handle.LinkByName(kernel.TunnelLink)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding link %s: %w", kernel.TunnelLink, err)
	}
	if len(hops) == 0 {
		if err := m.handle.LinkDel(link); ignoreGone(err) != nil {
			return fmt.Errorf("deleting link %s: %w", kernel.TunnelLink, err)
		}
		return nil
	}
	entries, err := m.tunnelEntries(link.Attrs().Index)
	if err != nil {
		return err
	}
	for _, h := range hops {
		for _, entry := range hopEntries(link.Attrs().Index, h) {
			delete(entries, entryKey(entry))
			// Of a peer that is silent the kernel has dropped the hardware address. What is left shows when it is heard of.
			entry.HardwareAddr = nil
			delete(entries, entryKey(entry))
		}
	}
	var errs []error
	for _, entry := range entries {
		if err := m.handle.NeighDel(&entry); ignoreGone(err) != nil {
			errs = append(errs, fmt.Errorf("forgetting where %s was: %w", entry.IP, err))
		}
	}
	return errors.Join(errs...)
}
