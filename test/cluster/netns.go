package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace that the harness made.
type Namespace struct {
	// Name is its name below /run/netns.
	Name   string
	handle netns.NsHandle
}

// NewNamespace makes a named network namespace with its loopback up.
func NewNamespace(name string) (*Namespace, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer home.Close()
	handle, err := netns.NewNamed(name) // and enters it
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making network namespace %s: %w", name, err), netns.Set(home))
	}
	n := &Namespace{Name: name, handle: handle}
	loopback, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(loopback)
	}
	if back := netns.Set(home); back != nil {
		// The thread is lost to this process: it must not run anything else.
		panic(fmt.Sprintf("returning from network namespace %s: %v", name, back))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting loopback in %s: %w", name, err), n.Delete())
	}
	return n, nil
}

// openNamespace opens a namespace that somebody else made.
func openNamespace(name, path string) (*Namespace, error) {
	handle, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace %s: %w", name, err)
	}
	return &Namespace{Name: name, handle: handle}, nil
}

// Close lets go of a namespace that is not the harness's to delete.
func (n *Namespace) Close() error { return n.handle.Close() }

// Path is the file that names the namespace to nsenter.
func (n *Namespace) Path() string { return "/run/netns/" + n.Name }

// Do calls f on a thread that is inside the namespace. Sockets that f opens stay there.
func (n *Namespace) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		if err := netns.Set(n.handle); err != nil {
			result <- fmt.Errorf("entering network namespace %s: %w", n.Name, err)
			return
		}
		err = f()
		// A thread that cannot return stays locked and ends with its goroutine.
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// DialContext dials from inside the namespace; addresses must be numeric.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (connection net.Conn, err error) {
	err = n.Do(func() error {
		connection, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return connection, err
}

// Listen listens inside the namespace.
func (n *Namespace) Listen(network, address string) (listener net.Listener, err error) {
	err = n.Do(func() error {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

// Delete removes the namespace and with it its links, routes and tables, once its processes have ended.
func (n *Namespace) Delete() error {
	err := n.handle.Close()
	return errors.Join(err, ignore(netns.DeleteNamed(n.Name), os.ErrNotExist, syscall.ENOENT))
}

func ignore(err error, ignored ...error) error {
	for _, i := range ignored {
		if errors.Is(err, i) {
			return nil
		}
	}
	return err
}

// fabric is the namespace with the bridges that join the others, one for each subnet.
type fabric struct {
	*Namespace
	bridges [2]*netlink.Bridge
}

func newFabric(name string) (*fabric, error) {
	namespace, err := NewNamespace(name)
	if err != nil {
		return nil, err
	}
	f := &fabric{Namespace: namespace}
	err = f.Do(func() error {
		for i := range f.bridges {
			f.bridges[i] = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("fabric%d", i)}}
			if err := netlink.LinkAdd(f.bridges[i]); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(f.bridges[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the bridges: %w", err), namespace.Delete())
	}
	return f, nil
}

// join gives a namespace the named uplink with an address on a subnet's bridge. port names the bridge's end.
func (f *fabric) join(n *Namespace, uplinkName, port string, subnet int, address netip.Prefix) error {
	err := f.Do(func() error {
		link := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: f.bridges[subnet].Index},
			PeerName:  uplinkName, PeerNamespace: netlink.NsFd(n.handle),
		}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		return fmt.Errorf("joining %s to the fabric: %w", n.Name, err)
	}
	return n.Do(func() error {
		uplink, err := netlink.LinkByName(uplinkName)
		if err != nil {
			return err
		}
		ip := &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}
		if err := netlink.AddrAdd(uplink, &netlink.Addr{IPNet: ip}); err != nil {
			return err
		}
		return netlink.LinkSetUp(uplink)
	})
}

// route gives a namespace a route to the other subnet.
func (n *Namespace) route(to netip.Prefix, via netip.Addr) error {
	err := n.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{
			Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}, Gw: via.AsSlice(),
		})
	})
	if err != nil {
		return fmt.Errorf("routing %s in %s: %w", to, n.Name, err)
	}
	return nil
}

// newRouter joins the two subnets by a namespace that forwards between them and knows nothing else.
func (f *fabric) newRouter(name string) (*Namespace, error) {
	router, err := NewNamespace(name)
	if err != nil {
		return nil, err
	}
	for i, subnet := range subnets {
		link := fmt.Sprintf("eth%d", i)
		if err := f.join(router, link, "router"+link, i, netip.PrefixFrom(subnet.router(), subnet.Bits())); err != nil {
			return nil, errors.Join(err, router.Delete())
		}
	}
	if err := router.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }); err != nil {
		return nil, errors.Join(fmt.Errorf("letting %s forward: %w", name, err), router.Delete())
	}
	return router, nil
}

// removePort takes the bridge's end of an uplink away, and the uplink with it.
func (f *fabric) removePort(port string) error {
	return f.Do(func() error {
		link, err := netlink.LinkByName(port)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}

// setPort switches the bridge's end of an uplink on or off.
func (f *fabric) setPort(port string, up bool) error {
	return f.Do(func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
}
