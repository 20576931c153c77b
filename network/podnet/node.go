package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// defaultMTU is for a node without any uplink.
const defaultMTU = 1500

// setupNode brings everything that is the node's, not one pod's, to its desired state, then puts back
// routes that live pods have lost and removes links that nobody owns. It is idempotent and cheap when
// nothing is to be done.
func (m *Manager) setupNode(_ context.Context) error {
	return errors.Join(
		m.forwardUplink(),
		m.routeRanges(),
		m.routeServices(),
		m.ensureTable(),
		m.forgetResets(),
		m.rememberHalves(),
		m.routePeers(),
		m.sweepLinks(),
	)
}

// nodeAddress is the node's primary address of the same family, or the zero address.
func (m *Manager) nodeAddress(like netip.Addr) netip.Addr {
	for _, address := range m.cfg.NodeAddresses {
		if address.Is4() == like.Is4() {
			return address
		}
	}
	return netip.Addr{}
}

// uplink is the link that has the node's first address, else the one with the default route; nil when
// there is neither.
func (m *Manager) uplink() (netlink.Link, error) {
	if len(m.cfg.NodeAddresses) > 0 {
		addresses, err := kernel.Listed(func() ([]netlink.Addr, error) { return m.handle.AddrList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("listing the node's addresses: %w", err)
		}
		for _, address := range addresses {
			if found, ok := netip.AddrFromSlice(address.IP); ok && found.Unmap() == m.cfg.NodeAddresses[0] {
				link, err := m.handle.LinkByIndex(address.LinkIndex)
				if err != nil || link.Attrs().Name != "lo" {
					return link, err
				}
			}
		}
	}
	routes, err := kernel.Listed(func() ([]netlink.Route, error) { return m.handle.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, route := range routes {
		if route.LinkIndex > 0 && (route.Dst == nil || isDefault(route.Dst)) {
			return m.handle.LinkByIndex(route.LinkIndex)
		}
	}
	return nil, nil
}

func isDefault(destination *net.IPNet) bool {
	bits, _ := destination.Mask.Size()
	return bits == 0
}

func (m *Manager) mtu() (int, error) {
	if m.cfg.MTU > 0 {
		return m.cfg.MTU, nil
	}
	link, err := m.uplink()
	if err != nil {
		return 0, err
	}
	if link == nil {
		return defaultMTU, nil
	}
	return link.Attrs().MTU, nil
}

func (m *Manager) sysctlFile() string { return filepath.Join(m.cfg.StateDir, "uplink-sysctls.json") }

// forwardUplink lets packets from the uplink through to the pods.
func (m *Manager) forwardUplink() error {
	link, err := m.uplink()
	if err != nil || link == nil {
		return err
	}
	return m.set("ipv4/conf/"+link.Attrs().Name+"/forwarding", "1")
}

// forgetResets makes the kernel forget a connection one second after the server has reset it, not ten. For
// that long a new connection from the same port to the same service is sent where the old one went: a client
// that makes some hundreds of connections a second uses each of its ports again within ten seconds, and the
// pod may be gone by then. The table must be there, which brings the tracking of connections with it.
func (m *Manager) forgetResets() error { return m.set("netfilter/nf_conntrack_tcp_timeout_close", "1") }

// rememberHalves makes the kernel remember for an hour, as kube-proxy does, a connection that one side has closed
// and the other has not: a client that has sent its request and nothing more may wait for the answer longer than a
// minute, after which what the server sends would not be translated any more.
func (m *Manager) rememberHalves() error {
	return m.set("netfilter/nf_conntrack_tcp_timeout_close_wait", "3600")
}

// set sets a sysctl of the node. What it was before is written down first, for Cleanup.
func (m *Manager) set(key, wanted string) error {
	return m.ns.Do(func() error {
		value, err := kernel.ReadSysctl(key)
		if err != nil || value == wanted {
			return err
		}
		before := map[string]string{}
		if content, err := os.ReadFile(m.sysctlFile()); err == nil {
			_ = json.Unmarshal(content, &before)
		}
		before[key] = value
		content, err := json.Marshal(before)
		if err != nil {
			return fmt.Errorf("encoding sysctls: %w", err)
		}
		if err := os.WriteFile(m.sysctlFile(), content, 0o600); err != nil {
			return fmt.Errorf("remembering sysctls: %w", err)
		}
		return kernel.WriteSysctl(key, wanted)
	})
}

// routeRanges makes the node answer for addresses that nothing serves: an unreachable route for each
// range, which every pod's own route, being longer, beats.
func (m *Manager) routeRanges() error {
	var errs []error
	for _, ranges := range [][]netip.Prefix{m.cfg.PodRanges, m.cfg.ServiceRanges, m.cidrs} {
		for _, prefix := range ranges {
			err := m.handle.RouteReplace(&netlink.Route{
				Dst: ipNet(prefix.Masked()), Type: unix.RTN_UNREACHABLE, Priority: kernel.WorstMetric,
				Protocol: kernel.RouteProtocol,
			})
			if err != nil {
				errs = append(errs, fmt.Errorf("making %s unreachable: %w", prefix, err))
			}
		}
	}
	return errors.Join(errs...)
}

// serviceLink makes the link that the node's own packets to service addresses seem to leave by: a
// bridge without ports, which leads nowhere. It cannot be lo: the kernel takes a route over lo for one
// of the node's own addresses and sends no ICMP errors for it.
func (m *Manager) serviceLink() (netlink.Link, error) {
	link, err := m.handle.LinkByName(kernel.ServiceLink)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = kernel.ServiceLink
		if err := m.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("making link %s: %w", kernel.ServiceLink, err)
		}
		link, err = m.handle.LinkByName(kernel.ServiceLink)
	}
	if err != nil {
		return nil, fmt.Errorf("finding link %s: %w", kernel.ServiceLink, err)
	}
	if link.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		if err := m.handle.LinkSetARPOff(link); err != nil {
			return nil, fmt.Errorf("switching ARP off on %s: %w", kernel.ServiceLink, err)
		}
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		if err := m.handle.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("setting link %s up: %w", kernel.ServiceLink, err)
		}
	}
	return link, nil
}

// routeServices lets the node's own processes begin to talk to service addresses: the kernel looks for
// a route (and a source address) before nftables chooses an endpoint. The way leads nowhere, and only
// for packets that are made on the node; what no service claims is refused by the table.
func (m *Manager) routeServices() error {
	if len(m.cfg.ServiceRanges) == 0 {
		return nil
	}
	link, err := m.serviceLink()
	if err != nil {
		return err
	}
	var errs []error
	for _, prefix := range m.cfg.ServiceRanges {
		rule := netlink.NewRule()
		rule.Family, rule.IifName, rule.Dst = family(prefix.Addr()), "lo", ipNet(prefix.Masked())
		rule.Table, rule.Priority, rule.Protocol = kernel.ServiceRouteTable, kernel.ServiceRulePriority, kernel.RouteProtocol
		if err := m.handle.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("adding the routing rule for %s: %w", prefix, err))
		}
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(prefix.Masked()), Scope: netlink.SCOPE_LINK,
			Table: kernel.ServiceRouteTable, Protocol: kernel.RouteProtocol,
		}
		if source := m.nodeAddress(prefix.Addr()); source.IsValid() {
			route.Src = source.AsSlice()
		}
		if err := m.handle.RouteReplace(route); err != nil {
			errs = append(errs, fmt.Errorf("routing %s for the node itself: %w", prefix, err))
		}
	}
	return errors.Join(errs...)
}

// sweepLinks removes pod links without a lease and puts back the host's side of those with one.
func (m *Manager) sweepLinks() error {
	leased := map[string]wiring{}
	for _, lease := range m.pool.Leases() {
		w := leased[kernel.LinkName(lease.Owner)]
		w.link = kernel.LinkName(lease.Owner)
		w.addresses = append(w.addresses, lease.Address)
		leased[w.link] = w
	}
	routed, err := m.podRoutes()
	if err != nil {
		return err
	}
	links, err := kernel.Listed(m.handle.LinkList)
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	var errs []error
	for _, link := range links {
		name := link.Attrs().Name
		if !kernel.OwnsPodLink(name) {
			continue
		}
		w, ok := leased[name]
		switch {
		case !ok:
			if err := m.handle.LinkDel(link); ignoreGone(err) != nil {
				errs = append(errs, fmt.Errorf("deleting link %s: %w", name, err))
				continue
			}
			m.cfg.Log.Info("Deleted the link of a pod that is gone", "link", name)
		case routed[link.Attrs().Index] < len(w.addresses):
			errs = append(errs, ignoreGone(m.wireHost(link, w)))
		}
	}
	return errors.Join(errs...)
}

// podRoutes counts Drayage's routes over each link.
func (m *Manager) podRoutes() (map[int]int, error) {
	routes, err := listRoutes(m.handle, netlink.FAMILY_ALL,
		&netlink.Route{Protocol: kernel.RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("listing pod routes: %w", err)
	}
	count := map[int]int{}
	for _, route := range routes {
		count[route.LinkIndex]++
	}
	return count, nil
}

// listRoutes lists the routes that match a filter.
func listRoutes(handle *netlink.Handle, family int, filter *netlink.Route, mask uint64) ([]netlink.Route, error) {
	return kernel.Listed(func() ([]netlink.Route, error) { return handle.RouteListFiltered(family, filter, mask) })
}

// ignoreGone drops the error of a link that its namespace took along between two steps.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Cleanup takes everything that Drayage's network has on the node out of the kernel, the service
// proxy's and the DNS server's part too, and puts the uplink's sysctls back. stateDir and netNS are
// Config's. It works without an agent, as often as one likes.
func Cleanup(_ context.Context, stateDir, netNS string) error {
	errs := []error{kernel.Cleanup(netNS)}
	file := filepath.Join(stateDir, "uplink-sysctls.json")
	before := map[string]string{}
	if content, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(content, &before)
	}
	ns, err := kernel.OpenNamespace(netNS)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer ns.Close()
	for key, value := range before {
		errs = append(errs, ns.Do(func() error {
			if _, err := kernel.ReadSysctl(key); errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return kernel.WriteSysctl(key, value)
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting sysctls: %w", err)
	}
	return nil
}
