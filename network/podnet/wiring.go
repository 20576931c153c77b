package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/internal/node"
	"drayage.dev/network/kernel"
)

// podInterface is the name of the pod's end of its link, as everybody expects it.
const podInterface = "eth0"

var (
	// hostMAC is the hardware address of every host end: each link has one host and one pod only.
	hostMAC = net.HardwareAddr{0x0a, 0xd2, 0, 0, 0, 1}

	gateway4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	gateway6 = netip.MustParseAddr("fe80::a9fe:101")
)

// wiring is one sandbox's link and what it carries.
type wiring struct {
	link      string
	addresses []netip.Addr
	mtu       int
}

// podMAC is a locally administered address made of the last four bytes of the pod's first address, so
// that the host knows it without asking.
func podMAC(address netip.Addr) net.HardwareAddr {
	bytes := address.AsSlice()
	return append(net.HardwareAddr{0x0a, 0xd3}, bytes[len(bytes)-4:]...)
}

func (w wiring) attachment() node.Attachment {
	return node.Attachment{
		Addresses: w.addresses, HostInterface: w.link, MAC: podMAC(w.addresses[0]).String(), MTU: w.mtu,
	}
}

func gateway(address netip.Addr) netip.Addr {
	if address.Is4() {
		return gateway4
	}
	return gateway6
}

func single(address netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(address, address.BitLen())) }

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}
}

func family(address netip.Addr) int {
	if address.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// wire makes the link, the pod's side and the host's. Doing it again changes nothing where the pod's
// side stands already; half a link, which a crash left, is made anew.
func (m *Manager) wire(w wiring, path string) error {
	ns, err := kernel.OpenNamespace(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	pod, err := ns.Netlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer pod.Close()
	if host, err := m.handle.LinkByName(w.link); err == nil {
		if podWired(pod, w) {
			return m.wireHost(host, w)
		}
		if err := m.handle.LinkDel(host); err != nil {
			return fmt.Errorf("deleting the half-made link %s: %w", w.link, err)
		}
	}
	host, err := m.makeLink(w, ns)
	if err != nil {
		return err
	}
	if err := m.wireHost(host, w); err != nil {
		return err
	}
	if err := wirePod(pod, w); err != nil {
		return err
	}
	return awaitOpen(m.handle, host, pod)
}

// awaitOpen waits until packets pass from end to end: the first that a pod sends or is sent are not to be lost.
func awaitOpen(host *netlink.Handle, hostEnd netlink.Link, pod *netlink.Handle) error {
	if err := kernel.AwaitLink(host, hostEnd.Attrs().Index); err != nil {
		return err
	}
	podEnd, err := pod.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("finding the pod's %s: %w", podInterface, err)
	}
	return kernel.AwaitLink(pod, podEnd.Attrs().Index)
}

func (m *Manager) makeLink(w wiring, ns *kernel.Namespace) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = w.link, w.mtu, hostMAC
	err := m.handle.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: podInterface, PeerMTU: uint32(w.mtu),
		PeerHardwareAddr: podMAC(w.addresses[0]), PeerNamespace: netlink.NsFd(ns.FD()),
	})
	if err != nil {
		return nil, fmt.Errorf("making link %s: %w", w.link, err)
	}
	host, err := m.handle.LinkByName(w.link)
	if err != nil {
		return nil, fmt.Errorf("finding link %s: %w", w.link, err)
	}
	return host, nil
}

// podWired tells whether the pod's side is complete: its default route is the last thing wirePod adds.
func podWired(pod *netlink.Handle, w wiring) bool {
	link, err := pod.LinkByName(podInterface)
	if err != nil || link.Attrs().HardwareAddr.String() != podMAC(w.addresses[0]).String() {
		return false
	}
	for _, address := range w.addresses {
		routes, err := listRoutes(pod, family(address),
			&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway(address).AsSlice()},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_GW)
		if err != nil || len(routes) == 0 {
			return false
		}
	}
	return true
}

func wirePod(pod *netlink.Handle, w wiring) error {
	for _, name := range []string{"lo", podInterface} {
		link, err := pod.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding the pod's %s: %w", name, err)
		}
		if err := pod.LinkSetUp(link); err != nil {
			return fmt.Errorf("setting the pod's %s up: %w", name, err)
		}
		if name != podInterface {
			continue
		}
		for _, address := range w.addresses {
			if err := addressPod(pod, link.Attrs().Index, address); err != nil {
				return err
			}
		}
	}
	return nil
}

func addressPod(pod *netlink.Handle, link int, address netip.Addr) error {
	addr := &netlink.Addr{IPNet: single(address)}
	if address.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	via := gateway(address)
	if err := pod.AddrReplace(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: link}}, addr); err != nil {
		return fmt.Errorf("giving the pod address %s: %w", address, err)
	}
	if err := pod.NeighSet(&netlink.Neigh{
		LinkIndex: link, Family: family(address), State: netlink.NUD_PERMANENT,
		IP: via.AsSlice(), HardwareAddr: hostMAC,
	}); err != nil {
		return fmt.Errorf("telling the pod its gateway: %w", err)
	}
	err := pod.RouteReplace(&netlink.Route{
		LinkIndex: link, Gw: via.AsSlice(), Src: address.AsSlice(),
		Dst: ipNet(netip.PrefixFrom(unspecified(address), 0)), Flags: int(netlink.FLAG_ONLINK),
	})
	if err != nil {
		return fmt.Errorf("giving the pod its default route: %w", err)
	}
	return nil
}

func unspecified(address netip.Addr) netip.Addr {
	if address.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// wireHost sets the host's side: sysctls of the link, neighbour, and last the route that opens the way.
func (m *Manager) wireHost(link netlink.Link, w wiring) error {
	err := m.ns.Do(func() error {
		// Replies of the pod pass the link, so the link forwards; a source address that is not the
		// pod's is dropped (strict reverse path filter).
		return errors.Join(
			kernel.WriteSysctl("ipv4/conf/"+w.link+"/forwarding", "1"),
			kernel.WriteSysctl("ipv4/conf/"+w.link+"/rp_filter", "1"),
			kernel.WriteSysctl("ipv4/conf/"+w.link+"/send_redirects", "0"))
	})
	if err != nil {
		return err
	}
	if err := m.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting link %s up: %w", w.link, err)
	}
	for _, address := range w.addresses {
		err := m.handle.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: family(address), State: netlink.NUD_PERMANENT,
			IP: address.AsSlice(), HardwareAddr: podMAC(w.addresses[0]),
		})
		if err != nil {
			return fmt.Errorf("telling the node the pod's hardware address: %w", err)
		}
		if err := m.handle.RouteReplace(m.podRoute(link.Attrs().Index, address)); err != nil {
			return fmt.Errorf("routing %s over %s: %w", address, w.link, err)
		}
	}
	return nil
}

func (m *Manager) podRoute(link int, address netip.Addr) *netlink.Route {
	route := &netlink.Route{
		LinkIndex: link, Dst: single(address), Scope: netlink.SCOPE_LINK, Protocol: kernel.RouteProtocol,
	}
	if source := m.nodeAddress(address); source.IsValid() {
		route.Src = source.AsSlice()
	}
	return route
}

// unroute closes the way to the sandbox's addresses; the link stays for its namespace to take along,
// which costs nothing (deleting a link by hand costs tens of milliseconds).
func (m *Manager) unroute(key string) error {
	link, err := m.handle.LinkByName(kernel.LinkName(key))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding link %s: %w", kernel.LinkName(key), err)
	}
	for _, lease := range m.pool.Leases() {
		if lease.Owner != key {
			continue
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(lease.Address), Scope: netlink.SCOPE_LINK}
		if err := m.handle.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("deleting the route to %s: %w", lease.Address, err)
		}
	}
	return nil
}

// unwire takes back whatever an Add that did not succeed has made.
func (m *Manager) unwire(key string) error {
	link, err := m.handle.LinkByName(kernel.LinkName(key))
	if err == nil {
		if err := m.handle.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("deleting link %s: %w", kernel.LinkName(key), err)
		}
	}
	return m.pool.Release(key)
}

func (m *Manager) checkRoute(name string, address netip.Addr) error {
	link, err := m.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding link %s: %w", name, err)
	}
	routes, err := listRoutes(m.handle, family(address),
		&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(address)},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	if err != nil {
		return fmt.Errorf("listing routes to %s: %w", address, err)
	}
	if len(routes) == 0 {
		return fmt.Errorf("no route to %s over %s", address, name)
	}
	return nil
}
