package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup takes every link, route, rule and nftables table of Drayage's out of the namespace at path
// (empty: the calling thread's). What is gone already is no error.
func Cleanup(path string) error {
	ns, err := OpenNamespace(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	handle, err := ns.Netlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	return errors.Join(cleanTables(ns), cleanLinks(handle), cleanRules(handle), cleanRoutes(handle))
}

func cleanTables(ns *Namespace) error {
	conn, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("listing nftables tables: %w", err)
	}
	var errs []error
	for _, table := range tables {
		if !strings.HasPrefix(table.Name, TablePrefix) {
			continue
		}
		conn.DelTable(table)
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("deleting nftables table %s: %w", table.Name, err))
		}
	}
	return errors.Join(errs...)
}

func cleanLinks(handle *netlink.Handle) error {
	links, err := Listed(handle.LinkList)
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	var errs []error
	for _, link := range links {
		if name := link.Attrs().Name; !OwnsPodLink(name) && name != ServiceLink && name != TunnelLink {
			continue
		}
		if err := handle.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("deleting link %s: %w", link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

func cleanRules(handle *netlink.Handle) error {
	rules, err := Listed(func() ([]netlink.Rule, error) { return handle.RuleList(netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("listing routing rules: %w", err)
	}
	var errs []error
	for _, rule := range rules {
		if rule.Protocol != RouteProtocol {
			continue
		}
		if err := handle.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("deleting routing rule %s: %w", rule, err))
		}
	}
	return errors.Join(errs...)
}

func cleanRoutes(handle *netlink.Handle) error {
	filter := &netlink.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_UNSPEC}
	routes, err := Listed(func() ([]netlink.Route, error) {
		return handle.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	var errs []error
	for _, route := range routes {
		if err := handle.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("deleting route %s: %w", route, err))
		}
	}
	return errors.Join(errs...)
}
