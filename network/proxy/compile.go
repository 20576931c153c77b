package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	util "k8s.io/kubernetes/pkg/api/v1/service"
	"k8s.io/kubernetes/pkg/proxy/apis"
	"k8s.io/utils/ptr"

	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/network/spec"
)

// Node is what compilation has to know of the node.
type Node struct {
	// Name is the node's name, by which its own pods are known.
	Name string
	// Addresses are where node ports are served.
	Addresses []netip.Addr
}

// compile returns the frontends of one service. Endpoints that are ready serve; only when there is none
// do those serve that are terminating but still answer, the last that were ready first (see lasting). before are the
// frontends until now, nil where there was none.
func compile(node Node, service *corev1.Service, endpoints []*discoveryv1.EndpointSlice, before func(spec.Key) *spec.Frontend) map[spec.Key]*spec.Frontend {
	if !proxied(service) {
		return nil
	}
	frontends := map[spec.Key]*spec.Frontend{}
	weights := weightsOf(endpoints)
	for _, port := range service.Spec.Ports {
		proto, ok := protocols[port.Protocol]
		if !ok {
			continue
		}
		all := backends(node, port, endpoints, weights, false)
		here := backends(node, port, endpoints, weights, true)
		add := func(address netip.Addr, number int32, inside bool, from backendList) *spec.Frontend {
			key := spec.Key{Addr: address, Proto: proto, Port: uint16(number), Inside: inside}
			f := from.lasting(before(key)).frontend(address.Is4(), weights)
			f.Affinity = affinity(service)
			frontends[key] = f
			return f
		}
		// Clients from outside keep their address where they are led to pods of this node alone, and
		// clients of the node itself go anywhere all the same. Where there is no such pod, others may be
		// elsewhere: the client's next attempt may come to a node that has one.
		external := func(address netip.Addr, number int32, sources []netip.Prefix) {
			var f *spec.Frontend
			if util.ExternalPolicyLocal(service) {
				f = add(address, number, false, here)
				f.Drop = len(here) == 0 && len(all) > 0
				add(address, number, true, all)
			} else {
				f = add(address, number, false, all)
				f.Masquerade = true
			}
			f.Sources = sources
		}
		for _, address := range parse(service.Spec.ClusterIPs, service.Spec.ClusterIP) {
			if util.InternalPolicyLocal(service) {
				add(address, port.Port, false, here)
			} else {
				add(address, port.Port, false, all)
			}
		}
		for _, address := range parse(service.Spec.ExternalIPs) {
			external(address, port.Port, nil)
		}
		for _, address := range balancers(service) {
			external(address, port.Port, sources(service))
		}
		if port.NodePort > 0 {
			for _, address := range node.Addresses {
				external(address, port.NodePort, nil)
			}
		}
	}
	return frontends
}

var protocols = map[corev1.Protocol]uint8{"": 6, corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132}

func proxied(service *corev1.Service) bool {
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return false
	}
	// Another proxy serves it.
	if _, other := service.Labels[apis.LabelServiceProxyName]; other {
		return false
	}
	return service.Spec.ClusterIP != "" && service.Spec.ClusterIP != corev1.ClusterIPNone
}

// parse returns the addresses among the strings, without those that are none and without duplicates.
func parse(lists []string, more ...string) []netip.Addr {
	var result []netip.Addr
	for _, text := range slices.Concat(lists, more) {
		if address, err := netip.ParseAddr(text); err == nil && !slices.Contains(result, address.Unmap()) {
			result = append(result, address.Unmap())
		}
	}
	return result
}

// balancers are the addresses of the service's load balancers that packets still carry when they come to
// a node.
func balancers(service *corev1.Service) []netip.Addr {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var texts []string
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
			texts = append(texts, ingress.IP)
		}
	}
	return parse(texts)
}

// sources are the ranges that may use the service's load balancers, sorted, none within another; none
// when everybody may.
func sources(service *corev1.Service) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range service.Spec.LoadBalancerSourceRanges {
		// Validation lets white space pass, and upstream takes it off.
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			continue
		}
		if prefix.Bits() == 0 {
			return nil
		}
		all = append(all, prefix.Masked())
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var apart []netip.Prefix
	for _, prefix := range all {
		if len(apart) == 0 || !apart[len(apart)-1].Overlaps(prefix) {
			apart = append(apart, prefix)
		}
	}
	return apart
}

func affinity(service *corev1.Service) time.Duration {
	if service.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := service.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

// backend is one endpoint of one port; here says that it is a pod of this node, ending that it is terminating,
// group whose weight it shares.
type backend struct {
	address      netip.AddrPort
	here, ending bool
	group        string
}

type backendList []backend

// backends are the endpoints of the port that should serve, sorted, each once: those of this node only, if
// that is asked for.
func backends(node Node, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice, weights map[string]int, onlyHere bool) backendList {
	var ready, ending backendList
	for _, slice := range endpoints {
		number, ok := portOf(slice, port)
		group := slice.Labels[ddiscoveryv1.GroupLabel]
		if !ok || weights != nil && weights[group] == 0 {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			here := endpoint.NodeName != nil && *endpoint.NodeName == node.Name
			if len(endpoint.Addresses) == 0 || onlyHere && !here {
				continue
			}
			// Further addresses of an endpoint are the same pod's; upstream uses the first alone.
			address, err := netip.ParseAddr(endpoint.Addresses[0])
			if err != nil {
				continue
			}
			b := backend{
				address: netip.AddrPortFrom(address.Unmap(), number), group: group,
				// Processes with the node's own network reach themselves over lo, where all is well.
				here: here && !slices.Contains(node.Addresses, address.Unmap()),
			}
			switch {
			case usable(endpoint.Conditions):
				ready = append(ready, b)
			case stillServing(endpoint.Conditions):
				b.ending = true
				ending = append(ending, b)
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.SortFunc(ready, func(a, b backend) int { return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.group, b.group)) })
	return slices.CompactFunc(ready, func(a, b backend) bool { return a.address == b.address })
}

// readyHere counts the addresses on this node behind any port that take new connections: what load
// balancers are told. Those that are terminating do not count.
func readyHere(node Node, endpoints []*discoveryv1.EndpointSlice) int {
	addresses := map[string]bool{}
	for _, slice := range endpoints {
		served := slices.ContainsFunc(slice.Ports, func(port discoveryv1.EndpointPort) bool { return port.Port != nil })
		for _, endpoint := range slice.Endpoints {
			if served && len(endpoint.Addresses) > 0 && usable(endpoint.Conditions) && endpoint.NodeName != nil && *endpoint.NodeName == node.Name {
				addresses[endpoint.Addresses[0]] = true
			}
		}
	}
	return len(addresses)
}

func portOf(slice *discoveryv1.EndpointSlice, wanted corev1.ServicePort) (uint16, bool) {
	for _, port := range slice.Ports {
		if port.Port != nil && ptr.Deref(port.Name, "") == wanted.Name && protocolOf(port.Protocol) == protocolOf(&wanted.Protocol) {
			return uint16(*port.Port), true
		}
	}
	return 0, false
}

func protocolOf(protocol *corev1.Protocol) corev1.Protocol {
	if protocol == nil || *protocol == "" {
		return corev1.ProtocolTCP
	}
	return *protocol
}

// usable tells whether new connections should go there. A condition that is not set counts as ready.
func usable(c discoveryv1.EndpointConditions) bool { return ptr.Deref(c.Ready, true) }

func stillServing(c discoveryv1.EndpointConditions) bool {
	return ptr.Deref(c.Serving, true) && ptr.Deref(c.Terminating, false)
}

// lasting are, of endpoints that are all ending, those that connections were led to until now. The others were
// withdrawn before, upon which their processes were told to end: they may have closed their listeners although their
// pods still look ready. They are tried when nothing else is left.
func (l backendList) lasting(before *spec.Frontend) backendList {
	if len(l) == 0 || !l[0].ending || before == nil {
		return l
	}
	until := before.Endpoints()
	kept := slices.DeleteFunc(slices.Clone(l), func(b backend) bool { return !slices.Contains(until, b.address) })
	if len(kept) == 0 {
		return l
	}
	return kept
}

// frontend spreads connections over the backends of one address family: evenly, or by the groups' weights.
func (l backendList) frontend(four bool, weights map[string]int) *spec.Frontend {
	f := &spec.Frontend{}
	var groups map[string][]netip.AddrPort
	if weights != nil {
		groups = map[string][]netip.AddrPort{}
	}
	for _, b := range l {
		if b.address.Addr().Is4() != four || len(f.Slots) == spec.MaxSlots {
			continue
		}
		if f.Slots == nil {
			f.Slots = make([]netip.AddrPort, 0, min(len(l), spec.MaxSlots))
		}
		f.Slots = append(f.Slots, b.address)
		if groups != nil {
			groups[b.group] = append(groups[b.group], b.address)
		}
		// The list is sorted, so an address that comes again comes next.
		if b.here && !slices.Contains(f.Local[max(0, len(f.Local)-1):], b.address.Addr()) {
			f.Local = append(f.Local, b.address.Addr())
		}
	}
	if len(groups) > 1 {
		f.Slots, f.Groups = nil, share(groups, weights)
	}
	return f
}
