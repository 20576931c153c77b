// Package netlab makes network namespaces for the room's specs: a node, and an outside that the node
// reaches over its uplink, joined by nothing else. It needs root. No product code calls it.
package netlab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// Namespace is a network namespace of a spec, with lo up.
type Namespace struct {
	*kernel.Namespace
	// Path names the namespace as runtimes do.
	Path string
	name string
}

// New makes a namespace whose name begins with "network-". The caller deletes it.
func New() (*Namespace, error) {
	var id [6]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	name := "network-" + hex.EncodeToString(id[:])
	if err := create(name); err != nil {
		return nil, fmt.Errorf("making namespace %s: %w", name, err)
	}
	path := "/run/netns/" + name
	ns, err := kernel.OpenNamespace(path)
	if err != nil {
		return nil, errors.Join(err, netns.DeleteNamed(name))
	}
	lab := &Namespace{Namespace: ns, Path: path, name: name}
	return lab, lab.Links(func(handle *netlink.Handle) error {
		lo, err := handle.LinkByName("lo")
		if err != nil {
			return err
		}
		return handle.LinkSetUp(lo)
	})
}

func create(name string) error {
	result := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine: it is never used in the wrong namespace.
		runtime.LockOSThread()
		handle, err := netns.NewNamed(name)
		if err == nil {
			err = handle.Close()
		}
		result <- err
	}()
	return <-result
}

// Links runs fn with a netlink handle in the namespace.
func (n *Namespace) Links(fn func(*netlink.Handle) error) error {
	handle, err := n.Netlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	return fn(handle)
}

// Delete ends the namespace.
func (n *Namespace) Delete() error {
	return errors.Join(n.Close(), netns.DeleteNamed(n.name), ignoreMissing(os.Remove(n.Path)))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Node is a node's namespace and an outside, joined by a veth; the outside is the node's default
// gateway and has no route of its own beyond the link.
type Node struct {
	*Namespace
	Outside        *Namespace
	Address        netip.Addr
	OutsideAddress netip.Addr
}

// NewNode makes a node at 192.0.2.1 whose uplink "up0" leads to an outside at 192.0.2.2.
func NewNode() (*Node, error) {
	node, err := New()
	if err != nil {
		return nil, err
	}
	outside, err := New()
	if err != nil {
		return nil, errors.Join(err, node.Delete())
	}
	lab := &Node{
		Namespace: node, Outside: outside,
		Address: netip.MustParseAddr("192.0.2.1"), OutsideAddress: netip.MustParseAddr("192.0.2.2"),
	}
	if err := lab.join(); err != nil {
		return nil, errors.Join(err, lab.Delete())
	}
	return lab, nil
}

func (n *Node) join() error {
	err := n.Links(func(handle *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "up0", 1400
		err := handle.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "up0", PeerMTU: 1400, PeerNamespace: netlink.NsFd(n.Outside.FD()),
		})
		if err != nil {
			return err
		}
		return address(handle, n.Address)
	})
	if err != nil {
		return err
	}
	if err := n.Outside.Links(func(handle *netlink.Handle) error {
		return address(handle, n.OutsideAddress)
	}); err != nil {
		return err
	}
	if err := n.Links(func(handle *netlink.Handle) error {
		return handle.RouteAdd(&netlink.Route{Gw: n.OutsideAddress.AsSlice()})
	}); err != nil {
		return err
	}
	return errors.Join(n.await("up0"), n.Outside.await("up0"))
}

// await waits until a link carries packets.
func (n *Namespace) await(name string) error {
	return n.Links(func(handle *netlink.Handle) error {
		link, err := handle.LinkByName(name)
		if err != nil {
			return err
		}
		return kernel.AwaitLink(handle, link.Attrs().Index)
	})
}

func address(handle *netlink.Handle, addr netip.Addr) error {
	link, err := handle.LinkByName("up0")
	if err != nil {
		return err
	}
	if err := handle.LinkSetUp(link); err != nil {
		return err
	}
	parsed, err := netlink.ParseAddr(addr.String() + "/24")
	if err != nil {
		return err
	}
	return handle.AddrAdd(link, parsed)
}

// Delete ends both namespaces.
func (n *Node) Delete() error { return errors.Join(n.Namespace.Delete(), n.Outside.Delete()) }
