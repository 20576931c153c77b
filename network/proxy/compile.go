package proxy

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/kubernetes/pkg/proxy/apis"

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
// do those serve that are terminating but still answer.
func compile(node Node, service *corev1.Service, endpoints []*discoveryv1.EndpointSlice) map[spec.Key]*spec.Frontend {
	if !proxied(service) {
		return nil
	}
	frontends := map[spec.Key]*spec.Frontend{}
	for _, port := range service.Spec.Ports {
		proto, ok := protocols[port.Protocol]
		if !ok {
			continue
		}
		all := backends(node, port, endpoints, false)
		inside := all
		if policy := service.Spec.InternalTrafficPolicy; policy != nil && *policy == corev1.ServiceInternalTrafficPolicyLocal {
			inside = backends(node, port, endpoints, true)
		}
		add := func(address netip.Addr, number int32, external bool) {
			from := all
			if !external {
				from = inside
			}
			f := from.frontend(address.Is4())
			f.Affinity, f.Masquerade = affinity(service), external
			frontends[spec.Key{Addr: address, Proto: proto, Port: uint16(number)}] = f
		}
		for _, address := range parse(service.Spec.ClusterIPs, service.Spec.ClusterIP) {
			add(address, port.Port, false)
		}
		for _, address := range external(service) {
			add(address, port.Port, true)
		}
		if port.NodePort > 0 {
			for _, address := range node.Addresses {
				add(address, port.NodePort, true)
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

// external are the addresses outside the service range by which the service is reached.
func external(service *corev1.Service) []netip.Addr {
	texts := slices.Clone(service.Spec.ExternalIPs)
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
			texts = append(texts, ingress.IP)
		}
	}
	return parse(texts)
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

// backend is one endpoint of one port; here says that it is a pod of this node.
type backend struct {
	address netip.AddrPort
	here    bool
}

type backendList []backend

// backends are the endpoints of the port that should serve, sorted, each once: those of this node only, if
// that is asked for.
func backends(node Node, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice, onlyHere bool) backendList {
	var ready, ending backendList
	for _, slice := range endpoints {
		number, ok := portOf(slice, port.Name)
		if !ok {
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
				address: netip.AddrPortFrom(address.Unmap(), number),
				// Processes with the node's own network reach themselves over lo, where all is well.
				here: here && !slices.Contains(node.Addresses, address.Unmap()),
			}
			switch {
			case usable(endpoint.Conditions):
				ready = append(ready, b)
			case stillServing(endpoint.Conditions):
				ending = append(ending, b)
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.SortFunc(ready, func(a, b backend) int { return a.address.Compare(b.address) })
	return slices.CompactFunc(ready, func(a, b backend) bool { return a.address == b.address })
}

func portOf(slice *discoveryv1.EndpointSlice, name string) (uint16, bool) {
	for _, port := range slice.Ports {
		if port.Port != nil && (port.Name == nil && name == "" || port.Name != nil && *port.Name == name) {
			return uint16(*port.Port), true
		}
	}
	return 0, false
}

// usable tells whether new connections should go there. A condition that is not set counts as ready.
func usable(c discoveryv1.EndpointConditions) bool { return c.Ready == nil || *c.Ready }

func stillServing(c discoveryv1.EndpointConditions) bool {
	return c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating
}

// frontend spreads connections evenly over the backends of one address family.
func (l backendList) frontend(four bool) *spec.Frontend {
	f := &spec.Frontend{}
	for _, b := range l {
		if b.address.Addr().Is4() != four || len(f.Slots) == spec.MaxSlots {
			continue
		}
		f.Slots = append(f.Slots, b.address)
		// The list is sorted, so an address that comes again comes next.
		if b.here && !slices.Contains(f.Local[max(0, len(f.Local)-1):], b.address.Addr()) {
			f.Local = append(f.Local, b.address.Addr())
		}
	}
	return f
}
