package dns

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Zone answers questions about the cluster's domain, and about its addresses, from a Store.
type Zone struct {
	// Domain is the cluster's domain, in lower case and without a dot at the end.
	Domain string
	// Address is the name server's own, for the zone's NS record.
	Address netip.Addr
	// Ranges are the addresses for whose reverse names the zone is the authority: nothing else is asked
	// about them.
	Ranges []netip.Prefix
	// TTL is the time to live of every record, in seconds.
	TTL   uint32
	Store *Store
}

// result is what the zone knows of a name.
type result struct {
	answer, extra []dns.RR
	// exists is false where there is no record of any type at the name or below it.
	exists bool
	// ours says that the name is a service's or below one, whether it exists or not.
	ours bool
	// external is where an external name leads: the asker has to follow it.
	external string
}

// schemaVersion is the version of Kubernetes' DNS specification that the zone follows.
const schemaVersion = "1.1.0"

// Owns tells whether the zone is the authority for a name (in lower case, fully qualified).
func (z *Zone) Owns(name string) bool {
	if dns.IsSubDomain(z.Domain+".", name) {
		return true
	}
	address, ok := reverse(name)
	if !ok {
		return false
	}
	if slices.ContainsFunc(z.Ranges, func(r netip.Prefix) bool { return r.Contains(address) }) {
		return true
	}
	z.Store.mu.RLock()
	defer z.Store.mu.RUnlock()
	_, service := z.Store.clusterIPs[address]
	_, endpoint := z.Store.endpoints[address]
	return service || endpoint
}

// apex is the name in whose SOA record a negative answer about the name points.
func (z *Zone) apex(name string) string {
	if dns.IsSubDomain("in-addr.arpa.", name) {
		return "in-addr.arpa."
	}
	if dns.IsSubDomain("ip6.arpa.", name) {
		return "ip6.arpa."
	}
	return z.Domain + "."
}

// soa is the record that tells how long a negative answer holds.
func (z *Zone) soa(name string) dns.RR {
	z.Store.mu.RLock()
	serial := uint32(z.Store.changes)
	z.Store.mu.RUnlock()
	return &dns.SOA{
		Hdr: z.header(z.apex(name), dns.TypeSOA), Ns: "ns.dns." + z.Domain + ".", Mbox: "hostmaster." + z.Domain + ".",
		Serial: serial, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: z.TTL,
	}
}

func (z *Zone) header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: z.TTL}
}

// lookup answers a question about a name that the zone owns, in lower case and fully qualified.
func (z *Zone) lookup(name string, kind uint16) result {
	if address, ok := reverse(name); ok {
		return z.pointer(name, address, kind)
	}
	if name == z.Domain+"." {
		return z.top(name, kind)
	}
	labels := strings.Split(strings.TrimSuffix(name, "."+z.Domain+"."), ".")
	last := len(labels) - 1
	switch {
	case slices.Equal(labels, []string{"dns-version"}):
		return result{exists: true, answer: when(kind, dns.TypeTXT,
			&dns.TXT{Hdr: z.header(name, dns.TypeTXT), Txt: []string{schemaVersion}})}
	case slices.Equal(labels, []string{"dns"}):
		return result{exists: true}
	case slices.Equal(labels, []string{"ns", "dns"}):
		return result{exists: true, answer: z.address(name, z.Address, kind)}
	case labels[last] == "svc":
		return z.service(name, labels[:last], kind)
	case labels[last] == "pod":
		return z.pod(name, labels[:last], kind)
	}
	return result{}
}

func when(asked, kind uint16, records ...dns.RR) []dns.RR {
	if asked == kind || asked == dns.TypeANY {
		return records
	}
	return nil
}

func (z *Zone) top(name string, kind uint16) result {
	server := "ns.dns." + z.Domain + "."
	r := result{exists: true}
	r.answer = append(when(kind, dns.TypeSOA, z.soa(name)),
		when(kind, dns.TypeNS, &dns.NS{Hdr: z.header(name, dns.TypeNS), Ns: server})...)
	if kind == dns.TypeNS {
		r.extra = append(z.address(server, z.Address, dns.TypeA), z.address(server, z.Address, dns.TypeAAAA)...)
	}
	return r
}

// address is the A or AAAA record of an address, if that is what was asked for.
func (z *Zone) address(name string, address netip.Addr, kind uint16) []dns.RR {
	switch {
	case address.Is4():
		return when(kind, dns.TypeA, &dns.A{Hdr: z.header(name, dns.TypeA), A: address.AsSlice()})
	case address.Is6():
		return when(kind, dns.TypeAAAA, &dns.AAAA{Hdr: z.header(name, dns.TypeAAAA), AAAA: address.AsSlice()})
	}
	return nil
}

// pod answers a-b-c-d.namespace.pod: the name says the address, whether or not there is such a pod.
func (z *Zone) pod(name string, labels []string, kind uint16) result {
	switch len(labels) {
	case 0, 1:
		return result{exists: true}
	case 2:
		if address, ok := undashed(labels[0]); ok {
			return result{exists: true, answer: z.address(name, address, kind)}
		}
	}
	return result{}
}

// service answers names below svc; labels are those in front of it.
func (z *Zone) service(name string, labels []string, kind uint16) result {
	s := z.Store
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(labels) == 0 {
		return result{exists: true}
	}
	last := len(labels) - 1
	if last == 0 {
		return result{exists: s.spaces[labels[0]] > 0}
	}
	key := types.NamespacedName{Namespace: labels[last], Name: labels[last-1]}
	kept := s.services[key]
	if kept == nil {
		return result{}
	}
	service := kept.Unpack()
	base := strings.Join([]string{key.Name, key.Namespace, "svc", z.Domain, ""}, ".")
	inner := labels[:last-1]
	r := z.known(name, base, key, service, inner, kind)
	r.ours = true
	return r
}

// known answers names of a service and below it; inner are the labels in front of the service's name.
func (z *Zone) known(name, base string, key types.NamespacedName, service *corev1.Service, inner []string, kind uint16) result {
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		if len(inner) > 0 {
			return result{}
		}
		return z.externalName(name, service)
	}
	if slices.ContainsFunc(inner, func(l string) bool { return strings.HasPrefix(l, "_") }) {
		return z.ports(name, base, key, service, inner, kind)
	}
	switch len(inner) {
	case 0:
		return z.whole(name, base, key, service, kind)
	case 1:
		return z.host(name, key, inner[0], kind)
	}
	return result{}
}

func (z *Zone) externalName(name string, service *corev1.Service) result {
	target := dns.Fqdn(strings.ToLower(service.Spec.ExternalName))
	return result{
		exists: true, external: target,
		answer: []dns.RR{&dns.CNAME{Hdr: z.header(name, dns.TypeCNAME), Target: target}},
	}
}

// whole answers the service's own name: its addresses, or its pods' when it is headless.
func (z *Zone) whole(name, base string, key types.NamespacedName, service *corev1.Service, kind uint16) result {
	if kind == dns.TypeSRV {
		return z.ports(name, base, key, service, nil, kind)
	}
	r := result{exists: true}
	if own := clusterIPs(service); len(own) > 0 {
		for _, address := range own {
			r.answer = append(r.answer, z.address(name, address, kind)...)
		}
		return r
	}
	var seen netip.Addr
	for _, h := range z.Store.hosts(key) {
		if h.address != seen {
			r.answer = append(r.answer, z.address(name, h.address, kind)...)
		}
		seen = h.address
	}
	rand.Shuffle(len(r.answer), func(i, j int) { r.answer[i], r.answer[j] = r.answer[j], r.answer[i] })
	return r
}

// host answers the name of one endpoint below its service's.
func (z *Zone) host(name string, key types.NamespacedName, wanted string, kind uint16) result {
	var r result
	for _, h := range z.Store.hosts(key) {
		if h.name == wanted {
			r.exists = true
			r.answer = append(r.answer, z.address(name, h.address, kind)...)
		}
	}
	return r
}

// ports answers _port._protocol in front of a service's name, and SRV questions about that name itself.
func (z *Zone) ports(name, base string, key types.NamespacedName, service *corev1.Service, inner []string, kind uint16) result {
	var r result
	add := func(port int32, target string) {
		r.answer = append(r.answer, when(kind, dns.TypeSRV, &dns.SRV{
			Hdr: z.header(name, dns.TypeSRV), Weight: 100, Port: uint16(port), Target: target,
		})...)
	}
	own := clusterIPs(service)
	for _, port := range service.Spec.Ports {
		if len(own) == 0 || !matches(inner, port.Name, port.Protocol) {
			continue
		}
		r.exists = true
		if len(inner) != 1 {
			add(port.Port, base)
		}
	}
	for _, address := range own {
		r.extra = append(r.extra, append(z.address(base, address, dns.TypeA), z.address(base, address, dns.TypeAAAA)...)...)
	}
	if len(own) > 0 {
		return r.withoutLonelyExtra()
	}
	r.exists = len(inner) == 0
	for _, h := range z.Store.hosts(key) {
		target := h.name + "." + base
		for _, port := range h.ports {
			if port.Port == nil || !matches(inner, deref(port.Name), protocolOf(port)) {
				continue
			}
			r.exists = true
			if len(inner) != 1 {
				add(*port.Port, target)
				r.extra = append(r.extra, append(z.address(target, h.address, dns.TypeA), z.address(target, h.address, dns.TypeAAAA)...)...)
			}
		}
	}
	return r.withoutLonelyExtra()
}

func (r result) withoutLonelyExtra() result {
	if len(r.answer) == 0 {
		r.extra = nil
	}
	return r
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func protocolOf(port discoveryv1.EndpointPort) corev1.Protocol {
	if port.Protocol == nil {
		return corev1.ProtocolTCP
	}
	return *port.Protocol
}

// matches tells whether a port is what "_name._protocol" (or "_protocol" alone) asks for.
func matches(inner []string, name string, protocol corev1.Protocol) bool {
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	wanted := "_" + strings.ToLower(string(protocol))
	switch len(inner) {
	case 0:
		return true
	case 1:
		return inner[0] == wanted
	case 2:
		return name != "" && inner[0] == "_"+strings.ToLower(name) && inner[1] == wanted
	}
	return false
}

// pointer answers the reverse name of a service's address or of a headless service's named pod.
func (z *Zone) pointer(name string, address netip.Addr, kind uint16) result {
	s := z.Store
	s.mu.RLock()
	defer s.mu.RUnlock()
	var r result
	add := func(target string) {
		r.exists = true
		r.answer = append(r.answer, when(kind, dns.TypePTR, &dns.PTR{Hdr: z.header(name, dns.TypePTR), Ptr: target})...)
	}
	suffix := func(key types.NamespacedName) string {
		return strings.Join([]string{key.Name, key.Namespace, "svc", z.Domain, ""}, ".")
	}
	if key, ok := s.clusterIPs[address]; ok {
		add(suffix(key))
		return r
	}
	var targets []string
	for _, kept := range s.endpoints[address] {
		key := s.owners[kept.NamespacedName]
		if service := s.services[key]; service == nil || len(clusterIPs(service.Unpack())) > 0 {
			continue
		}
		for _, h := range hostsOf(kept.Unpack()) {
			if h.address == address {
				targets = append(targets, h.name+"."+suffix(key))
			}
		}
	}
	slices.Sort(targets)
	for _, target := range slices.Compact(targets) {
		add(target)
	}
	return r
}
