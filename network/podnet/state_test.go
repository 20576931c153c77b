package podnet_test

import (
	"fmt"
	"net"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
)

// links lists Drayage's links of a node.
func links(lab *netlab.Node) ([]string, error) {
	var names []string
	err := lab.Links(func(handle *netlink.Handle) error {
		links, err := handle.LinkList()
		for _, link := range links {
			if strings.HasPrefix(link.Attrs().Name, kernel.LinkPrefix) {
				names = append(names, link.Attrs().Name)
			}
		}
		return err
	})
	return names, err
}

// state is everything of Drayage's in a node's kernel, in words; empty when there is nothing.
func state(lab *netlab.Node) (string, error) {
	var out strings.Builder
	names, err := links(lab)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		fmt.Fprintln(&out, "link", name)
	}
	err = lab.Links(func(handle *netlink.Handle) error {
		routes, err := handle.RouteListFiltered(netlink.FAMILY_ALL,
			&netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: kernel.RouteProtocol},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		for _, route := range routes {
			fmt.Fprintln(&out, "route", route)
		}
		if err != nil {
			return err
		}
		rules, err := handle.RuleList(netlink.FAMILY_ALL)
		for _, rule := range rules {
			if rule.Protocol == kernel.RouteProtocol {
				fmt.Fprintln(&out, "rule", rule)
			}
		}
		return err
	})
	if err != nil {
		return "", err
	}
	conn, err := nftables.New(nftables.WithNetNSFd(lab.FD()))
	if err != nil {
		return "", err
	}
	tables, err := conn.ListTables()
	for _, table := range tables {
		fmt.Fprintln(&out, "table", table.Name)
	}
	return out.String(), err
}

func mustIPNet(text string) *net.IPNet {
	_, parsed, err := net.ParseCIDR(text)
	if err != nil {
		panic(err)
	}
	return parsed
}
