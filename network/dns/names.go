package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// dashed is an address as a label: dots and colons become dashes.
func dashed(address netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(address.String())
}

// undashed reads what dashed yields.
func undashed(label string) (netip.Addr, bool) {
	if address, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
		return address, true
	}
	address, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return address, err == nil
}

// reverse reads the address from a name below in-addr.arpa or ip6.arpa, in lower case.
func reverse(name string) (netip.Addr, bool) {
	if prefix, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := dns.SplitDomainName(prefix)
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		address, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return address, err == nil
	}
	prefix, ok := strings.CutSuffix(name, ".ip6.arpa.")
	labels := dns.SplitDomainName(prefix)
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := 31; i >= 0; i-- {
		text.WriteString(labels[i])
		if i > 0 && i%4 == 0 {
			text.WriteByte(':')
		}
	}
	address, err := netip.ParseAddr(text.String())
	return address, err == nil
}
