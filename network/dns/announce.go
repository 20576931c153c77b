package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// announceInterval is how often the local route is put back if somebody took it away.
const announceInterval = 10 * time.Second

// announce makes the address one of the node's own by a local route, which needs no link of its own and
// goes with kernel.Cleanup. Loopback addresses are the node's anyway.
func announce(address netip.Addr) error {
	if address.IsLoopback() || address.IsUnspecified() {
		return nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo: %w", err)
	}
	bits := address.BitLen()
	err = netlink.RouteReplace(&netlink.Route{
		LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		Protocol: kernel.RouteProtocol, Dst: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(bits, bits)},
	})
	if err != nil {
		return fmt.Errorf("making %s the node's address: %w", address, err)
	}
	return nil
}

func keepAnnounced(ctx context.Context, address netip.Addr, log logr.Logger) error {
	ticker := time.NewTicker(announceInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := announce(address); err != nil {
				log.Error(err, "Could not keep the DNS address, will try again")
			}
		}
	}
}
