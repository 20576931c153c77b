package nftables_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"drayage.dev/network/netlab"
	"drayage.dev/network/nftables"
	"drayage.dev/network/spec"
)

// many is ten thousand services with ten endpoints each.
func many() spec.Changes {
	desired := spec.Changes{}
	for i := range 10_000 {
		f := &spec.Frontend{}
		for j := range 10 {
			f.Slots = append(f.Slots, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i % 250), byte(j + 1)}), 8080))
		}
		desired[key(fmt.Sprintf("10.96.%d.%d:80", i/250, i%250+1), tcp)] = f
	}
	return desired
}

// benchTable is an empty table in a namespace of its own.
func benchTable(b *testing.B) (*netlab.Namespace, *nftables.Table) {
	b.Helper()
	ns, err := netlab.New()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ns.Delete() })
	return ns, openTable(b, ns)
}

func openTable(b *testing.B, ns *netlab.Namespace) *nftables.Table {
	b.Helper()
	table, err := nftables.New(ns.Path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = table.Close() })
	return table
}

func sync(b *testing.B, table *nftables.Table, desired map[spec.Key]*spec.Frontend) {
	b.Helper()
	if _, err := table.Sync(desired); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkFullSync(b *testing.B) {
	desired := many()
	for range b.N {
		b.StopTimer()
		_, table := benchTable(b)
		b.StartTimer()
		sync(b, table, desired)
	}
}

func BenchmarkTakeOver(b *testing.B) {
	desired := many()
	ns, table := benchTable(b)
	sync(b, table, desired)
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		next := openTable(b, ns)
		b.StartTimer()
		sync(b, next, desired)
	}
}

func BenchmarkOneEndpoint(b *testing.B) {
	desired := many()
	_, table := benchTable(b)
	sync(b, table, desired)
	k := key("10.96.7.7:80", tcp)
	b.ResetTimer()
	for i := range b.N {
		f := *desired[k]
		f.Slots = slices.Clone(f.Slots)
		f.Slots[i%10] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 245, byte(i), 1}), 8080)
		if err := table.Apply(spec.Changes{k: &f}); err != nil {
			b.Fatal(err)
		}
	}
}
