package dns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Stub says who answers for names in and below a domain, in place of the node's own name servers.
type Stub struct {
	// Domain is fully qualified, in lower case.
	Domain string
	// Servers are asked in this order (host:port).
	Servers []string
}

// ParseStub reads "domain=address[:port][,address...]". A domain of the cluster's own stays the cluster's.
func ParseStub(text string) (Stub, error) {
	domain, servers, ok := strings.Cut(text, "=")
	if _, valid := dns.IsDomainName(domain); !ok || !valid || strings.Trim(domain, ".") == "" {
		return Stub{}, fmt.Errorf("reading the stub domain %q: want domain=address, such as corp.example=192.0.2.53", text)
	}
	stub := Stub{Domain: dns.CanonicalName(domain)}
	for server := range strings.SplitSeq(servers, ",") {
		if address, err := netip.ParseAddr(server); err == nil {
			server = net.JoinHostPort(address.String(), "53")
		}
		if _, err := netip.ParseAddrPort(server); err != nil {
			return Stub{}, fmt.Errorf("reading the stub domain %q: %q is no address", text, server)
		}
		stub.Servers = append(stub.Servers, server)
	}
	return stub, nil
}

// stubServers returns those who answer for a name: the longest stub domain's servers, else the others.
func stubServers(stubs []Stub, others func() []string) func(name string) []string {
	return func(name string) []string {
		longest, servers := 0, []string(nil)
		for _, stub := range stubs {
			if labels := dns.CountLabel(stub.Domain); labels > longest && dns.IsSubDomain(stub.Domain, name) {
				longest, servers = labels, stub.Servers
			}
		}
		if longest > 0 {
			return servers
		}
		return others()
	}
}
