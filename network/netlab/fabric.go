package netlab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"drayage.dev/network/kernel"
)

// Fabric joins nodes: those on its bridge share a link, the others are behind it as a router. It is the
// router of all of them, and knows no route but to its own links.
type Fabric struct {
	*Namespace
	links int
}

// FabricMTU is that of the fabric's links, in bytes.
const FabricMTU = 1400

// NewFabric makes a fabric whose bridge has the address.
func NewFabric(address netip.Prefix) (*Fabric, error) {
	ns, err := New()
	if err != nil {
		return nil, err
	}
	f := &Fabric{Namespace: ns}
	err = errors.Join(
		f.Links(func(handle *netlink.Handle) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = "br0", FabricMTU
			if err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				return err
			}
			return raise(handle, "br0", address)
		}),
		f.Do(func() error { return kernel.WriteSysctl("ipv4/ip_forward", "1") }))
	if err != nil {
		return nil, errors.Join(err, ns.Delete())
	}
	return f, nil
}

// Share makes a node on the bridge, with uplink "up0" and a route to everywhere else by way of gateway.
func (f *Fabric) Share(address netip.Prefix, gateway netip.Addr) (*Namespace, error) {
	return f.join(address, gateway, netip.Prefix{})
}

// Route makes a node on a link of its own to the fabric, whose end there has the address router.
func (f *Fabric) Route(address, router netip.Prefix) (*Namespace, error) {
	return f.join(address, router.Addr(), router)
}

func (f *Fabric) join(address netip.Prefix, gateway netip.Addr, router netip.Prefix) (*Namespace, error) {
	node, err := New()
	if err != nil {
		return nil, err
	}
	f.links++
	port := fmt.Sprintf("port%d", f.links)
	err = f.Links(func(handle *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = port, FabricMTU
		if !router.IsValid() {
			bridge, err := handle.LinkByName("br0")
			if err != nil {
				return err
			}
			attrs.MasterIndex = bridge.Attrs().Index
		}
		err := handle.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "up0", PeerMTU: FabricMTU, PeerNamespace: netlink.NsFd(node.FD()),
		})
		if err != nil {
			return err
		}
		return raise(handle, port, router)
	})
	if err == nil {
		err = node.Links(func(handle *netlink.Handle) error {
			if err := raise(handle, "up0", address); err != nil {
				return err
			}
			return handle.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()})
		})
	}
	if err == nil {
		err = errors.Join(f.await(port), node.await("up0"))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("joining %s to the fabric: %w", address, err), node.Delete())
	}
	return node, nil
}

// raise sets a link up and gives it the address, if that is valid.
func raise(handle *netlink.Handle, name string, address netip.Prefix) error {
	link, err := handle.LinkByName(name)
	if err != nil {
		return err
	}
	if err := handle.LinkSetUp(link); err != nil || !address.IsValid() {
		return err
	}
	parsed, err := netlink.ParseAddr(address.String())
	if err != nil {
		return err
	}
	return handle.AddrAdd(link, parsed)
}
