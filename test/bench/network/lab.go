package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
)

const (
	// endpointPort answers a connection with the address that it reached; bulkPort swallows.
	endpointPort, bulkPort = 8080, 9000
)

var (
	podRange     = netip.MustParsePrefix("10.244.0.0/16")
	serviceRange = netip.MustParsePrefix("10.96.0.0/16")
	// endpointRange are the endpoints, all of which one namespace is; clientLink leads to the clients,
	// which are pods, too.
	endpointRange = netip.MustParsePrefix("10.244.0.0/17")
	endpointLink  = link{node: netip.MustParsePrefix("10.244.253.1/30"), pod: netip.MustParsePrefix("10.244.253.2/30")}
	clientLink    = link{node: netip.MustParsePrefix("10.244.254.1/30"), pod: netip.MustParsePrefix("10.244.254.2/30")}
)

// link is a veth between a node and a namespace that plays pods.
type link struct{ node, pod netip.Prefix }

// lab is a node between clients and endpoints.
type lab struct {
	node, clients, endpoints *netlab.Namespace
	listeners                []net.Listener
}

// newLab joins a node to the fabric at the address and gives it clients and endpoints.
func newLab(fabric *netlab.Fabric, address netip.Prefix, gateway netip.Addr) (*lab, error) {
	l := &lab{}
	var err error
	if l.node, err = fabric.Share(address, gateway); err != nil {
		return l, err
	}
	if err := l.node.Do(func() error { return kernel.WriteSysctl("ipv4/ip_forward", "1") }); err != nil {
		return l, err
	}
	if l.clients, err = netlab.New(); err != nil {
		return l, err
	}
	if l.endpoints, err = netlab.New(); err != nil {
		return l, err
	}
	if err := errors.Join(l.join("clients", l.clients, clientLink), l.join("endpoints", l.endpoints, endpointLink)); err != nil {
		return l, err
	}
	err = l.node.Links(func(handle *netlink.Handle) error {
		return handle.RouteAdd(&netlink.Route{Dst: network(endpointRange), Gw: endpointLink.pod.Addr().AsSlice()})
	})
	if err != nil {
		return l, err
	}
	err = l.endpoints.Links(func(handle *netlink.Handle) error {
		lo, err := handle.LinkByName("lo")
		if err != nil {
			return err
		}
		return handle.RouteAdd(&netlink.Route{
			Dst: network(endpointRange), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
		})
	})
	if err != nil {
		return l, err
	}
	return l, errors.Join(l.serve(endpointPort, tellAddress), l.serve(bulkPort, swallow))
}

// join connects the node with a namespace whose only way out is the node.
func (l *lab) join(name string, pods *netlab.Namespace, at link) error {
	err := l.node.Links(func(handle *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pods.FD())}); err != nil {
			return err
		}
		return raise(handle, name, at.node)
	})
	if err != nil {
		return err
	}
	return pods.Links(func(handle *netlink.Handle) error {
		if err := raise(handle, "eth0", at.pod); err != nil {
			return err
		}
		return handle.RouteAdd(&netlink.Route{Gw: at.node.Addr().AsSlice()})
	})
}

func raise(handle *netlink.Handle, name string, address netip.Prefix) error {
	found, err := handle.LinkByName(name)
	if err != nil {
		return err
	}
	if err := handle.LinkSetUp(found); err != nil {
		return err
	}
	return handle.AddrAdd(found, &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: network(address).Mask}})
}

func network(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Masked().Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

func (l *lab) serve(port int, answer func(net.Conn)) error {
	return l.endpoints.Do(func() error {
		listener, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		l.listeners = append(l.listeners, listener)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go answer(conn)
			}
		}()
		return nil
	})
}

func tellAddress(conn net.Conn) {
	defer conn.Close()
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	fmt.Fprintln(conn, host)
}

func swallow(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 256<<10)
	for {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
	}
}

// ask connects from the clients and returns which endpoint answered.
func (l *lab) ask(service netip.AddrPort, patience time.Duration) (string, error) {
	conn, err := l.clients.Dial("tcp4", service.String(), patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	return line[:len(line)-1], nil
}

func (l *lab) close() error {
	var errs []error
	for _, listener := range l.listeners {
		errs = append(errs, listener.Close())
	}
	for _, ns := range []*netlab.Namespace{l.endpoints, l.clients, l.node} {
		if ns != nil {
			errs = append(errs, ns.Delete())
		}
	}
	return errors.Join(errs...)
}
