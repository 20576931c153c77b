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

// fabric is the namespace with the bridge that joins the others.
type fabric struct {
	*Namespace
	bridge *netlink.Bridge
}

func newFabric(name string) (*fabric, error) {
	namespace, err := NewNamespace(name)
	if err != nil {
		return nil, err
	}
	f := &fabric{Namespace: namespace, bridge: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "fabric"}}}
	err = f.Do(func() error {
		if err := netlink.LinkAdd(f.bridge); err != nil {
			return err
		}
		return netlink.LinkSetUp(f.bridge)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the bridge: %w", err), namespace.Delete())
	}
	return f, nil
}

// join gives a namespace an uplink eth0 with an address on the bridge. port names the bridge's end.
func (f *fabric) join(n *Namespace, port string, address netip.Prefix) error {
	err := f.Do(func() error {
		link := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: f.bridge.Index},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(n.handle),
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
		uplink, err := netlink.LinkByName("eth0")
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
