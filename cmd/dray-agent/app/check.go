package app

import (
	"context"
	"errors"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/network/check"
	"drayage.dev/network/nftables"
	"drayage.dev/network/spec"
)

// checker looks for what is broken in the node's network when somebody asks.
func (a *agent) checker() *check.Checker {
	var dns []netip.Addr
	for _, ip := range a.dns {
		if address, ok := netip.AddrFromSlice(ip); ok {
			dns = append(dns, address.Unmap())
		}
	}
	return check.New(check.Config{
		Node: a.NodeName, Network: a.network, Services: a.proxy, Compare: compareKernel, Namespace: a.namespaceOf,
		DNS: dns, Domain: a.ClusterDomain,
	})
}

// compareKernel looks at the kernel with sockets of its own: the proxy is the only one to use its Table.
func compareKernel(frontends map[spec.Key]*spec.Frontend) ([]string, error) {
	table, err := nftables.New("")
	if err != nil {
		return nil, err
	}
	differences, err := table.Compare(frontends)
	return differences, errors.Join(err, table.Close())
}

// namespaceOf finds a running pod's network namespace.
func (a *agent) namespaceOf(ctx context.Context, pod types.UID) (string, error) {
	states, err := a.runtime.List(ctx)
	if err != nil {
		return "", err
	}
	for _, state := range states {
		if ref := state.Ref(); state.UID == pod && ref.NetNS != "" {
			return ref.NetNS, nil
		}
	}
	return "", errors.New("no sandbox of it runs here")
}
