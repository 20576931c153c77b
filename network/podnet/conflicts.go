package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// CheckRange refuses a range of Drayage's that somebody else uses on the node: an address of one of the node's
// links lies in it, or a route to a part of it leads elsewhere. A route to more than the range, such as the default
// route, is no obstacle: Drayage's are more specific. netNS is Config's.
func CheckRange(netNS string, ours netip.Prefix) error {
	ns, err := kernel.OpenNamespace(netNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	handle, err := ns.Netlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	ours = ours.Masked()
	links, err := kernel.Listed(handle.LinkList)
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	addresses, err := kernel.Listed(func() ([]netlink.Addr, error) { return handle.AddrList(nil, family(ours.Addr())) })
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	for _, address := range addresses {
		found, ok := netip.AddrFromSlice(address.IP)
		if link := names[address.LinkIndex]; ok && ours.Contains(found.Unmap()) && !strings.HasPrefix(link, kernel.LinkPrefix) {
			return fmt.Errorf("%s overlaps with %s, the address of this node's link %s", ours, address.IPNet, link)
		}
	}
	routes, err := listRoutes(handle, family(ours.Addr()), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	var errs []error
	for _, route := range routes {
		if route.Dst == nil || route.Protocol == kernel.RouteProtocol || strings.HasPrefix(names[route.LinkIndex], kernel.LinkPrefix) {
			continue
		}
		bits, _ := route.Dst.Mask.Size()
		if to, ok := netip.AddrFromSlice(route.Dst.IP); ok && bits >= ours.Bits() && ours.Contains(to.Unmap()) {
			over := "over " + names[route.LinkIndex]
			if route.LinkIndex == 0 {
				over = "that leads nowhere"
			}
			errs = append(errs, fmt.Errorf("%s overlaps with %s, a route of this node %s", ours, route.Dst, over))
		}
	}
	// One is enough to know what to do.
	return errors.Join(errs[:min(len(errs), 1)]...)
}
