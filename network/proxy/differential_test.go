package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	upstream "k8s.io/kubernetes/pkg/proxy"
	"k8s.io/utils/ptr"

	"drayage.dev/network/spec"
)

// oracle is what upstream's kube-proxy makes of a service and its slices on this node.
type oracle struct {
	ports     upstream.ServicePortMap
	endpoints upstream.EndpointsMap
}

func ask(service *corev1.Service, slices []*discoveryv1.EndpointSlice) oracle {
	services := upstream.NewServiceChangeTracker(corev1.IPv4Protocol, nil, nil)
	services.Update(nil, service)
	o := oracle{ports: upstream.ServicePortMap{}, endpoints: upstream.EndpointsMap{}}
	o.ports.Update(services)
	endpoints := upstream.NewEndpointsChangeTracker(corev1.IPv4Protocol, thisNode.Name, nil, nil)
	for _, slice := range slices {
		endpoints.EndpointSliceUpdate(slice, false)
	}
	o.endpoints.Update(endpoints)
	return o
}

// verdict is what becomes of connections: whom they may reach, and what happens where that is nobody.
type verdict struct {
	endpoints  []string
	drop       bool
	masquerade bool
	sources    []string
}

func texts(endpoints []upstream.Endpoint) []string {
	var all []string
	for _, e := range endpoints {
		all = append(all, e.String())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// expected are upstream's verdicts for connections to an address of the service from pods and the node
// itself, and from elsewhere, as pkg/proxy/nftables puts CategorizeEndpoints' lists together.
func expected(port upstream.ServicePort, endpoints []upstream.Endpoint, address string) (near, far verdict) {
	cluster, here, _, any := upstream.CategorizeEndpoints(endpoints, port, thisNode.Name, nil)
	if address == "cluster" {
		near.endpoints = texts(cluster)
		if port.InternalPolicyLocal() {
			near.endpoints = texts(here)
		}
		return near, near
	}
	near.endpoints = texts(cluster)
	if port.ExternalPolicyLocal() {
		far.endpoints = texts(here)
		far.drop = len(here) == 0 && any
	} else {
		far.endpoints, far.masquerade = near.endpoints, true
		near.masquerade = true
	}
	if address == "balancer" {
		for _, prefix := range port.LoadBalancerSourceRanges() {
			near.sources = append(near.sources, prefix.String())
		}
		slices.Sort(near.sources)
		far.sources = near.sources
	}
	return near, far
}

func found(frontends map[spec.Key]*spec.Frontend, key spec.Key) (near, far verdict) {
	of := func(f *spec.Frontend) (v verdict) {
		for _, endpoint := range f.Endpoints() {
			v.endpoints = append(v.endpoints, endpoint.String())
		}
		slices.Sort(v.endpoints)
		v.drop, v.masquerade = f.Drop, f.Masquerade
		for _, prefix := range f.Sources {
			v.sources = append(v.sources, prefix.String())
		}
		slices.Sort(v.sources)
		return v
	}
	far = of(frontends[key])
	near = far
	if own := frontends[inside(key)]; own != nil {
		near = of(own)
		near.sources = far.sources
	}
	return near, far
}

func randomService(random *rand.Rand) *corev1.Service {
	s := service("web", "10.96.0.20")
	policies := []corev1.ServiceExternalTrafficPolicy{"", corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal}
	s.Spec.Type = []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer}[random.IntN(3)]
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53})
	if random.IntN(2) == 0 {
		s.Spec.ExternalIPs = []string{"198.51.100.7"}
	}
	if s.Spec.Type != corev1.ServiceTypeClusterIP {
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30080, 30053
	}
	if s.Spec.Type != corev1.ServiceTypeClusterIP || s.Spec.ExternalIPs != nil {
		s.Spec.ExternalTrafficPolicy = policies[random.IntN(3)]
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.5"}}
		switch random.IntN(4) {
		case 0:
			s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", " 10.9.0.0/16"}
		case 1:
			s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "0.0.0.0/0"}
		}
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			s.Spec.HealthCheckNodePort = 30999
		}
	}
	if random.IntN(3) == 0 {
		s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	}
	return s
}

func randomSlices(random *rand.Rand) []*discoveryv1.EndpointSlice {
	bit := func() *bool { return []*bool{nil, ptr.To(true), ptr.To(false), ptr.To(false)}[random.IntN(4)] }
	var all []*discoveryv1.EndpointSlice
	for i := range random.IntN(4) {
		s := slice(fmt.Sprint("web-", i), "web")
		if random.IntN(2) == 0 {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr.To("dns"), Port: ptr.To[int32](5353), Protocol: ptr.To(corev1.ProtocolUDP)})
		}
		if random.IntN(8) == 0 {
			s.Ports[0].Protocol = ptr.To(corev1.ProtocolUDP)
		}
		for j := range random.IntN(4) {
			// Upstream has no rule for slices that say different things of one address.
			e := endpoint(fmt.Sprintf("10.244.%d.%d", i, j+1))
			e.Conditions = discoveryv1.EndpointConditions{Ready: bit(), Serving: bit(), Terminating: bit()}
			switch random.IntN(5) {
			case 0:
				e.NodeName = nil
			case 1, 2:
				e = there(e)
			}
			s.Endpoints = append(s.Endpoints, e)
		}
		all = append(all, s)
	}
	return all
}

var _ = Describe("Whoever serves", func() {
	It("is whom upstream's kube-proxy would choose among, for every policy and state", func() {
		random := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 11))
		outcomes := map[string]int{}
		for range 20_000 {
			s, all := randomService(random), randomSlices(random)
			o := ask(s, all)
			model := newModel(thisNode)
			model.SetService(s)
			for _, slice := range all {
				model.SetSlice(slice)
			}
			frontends := model.Changes()
			checked := 0
			for name, port := range o.ports {
				proto := map[corev1.Protocol]uint8{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17}[name.Protocol]
				addresses := map[string][]netip.AddrPort{
					"cluster": {netip.AddrPortFrom(netip.MustParseAddr("10.96.0.20"), uint16(port.Port()))},
				}
				for _, ip := range port.ExternalIPs() {
					addresses["external"] = append(addresses["external"], netip.AddrPortFrom(netip.MustParseAddr(ip.String()), uint16(port.Port())))
				}
				for _, ip := range port.LoadBalancerVIPs() {
					addresses["balancer"] = append(addresses["balancer"], netip.AddrPortFrom(netip.MustParseAddr(ip.String()), uint16(port.Port())))
				}
				if port.NodePort() != 0 {
					addresses["node"] = append(addresses["node"], netip.AddrPortFrom(thisNode.Addresses[0], uint16(port.NodePort())))
				}
				for kind, list := range addresses {
					near, far := expected(port, o.endpoints[name], kind)
					for _, address := range list {
						checked++
						key := at(address.String(), proto)
						Expect(frontends).To(HaveKey(key))
						isNear, isFar := found(frontends, key)
						why := func() string { return fmt.Sprintf("%s %s\n%+v\n%+v", kind, name, s.Spec, all) }
						Expect(isNear).To(Equal(near), why)
						Expect(isFar).To(Equal(far), why)
						outcomes[strings.Join([]string{kind, fmt.Sprint(len(far.endpoints) > 0), fmt.Sprint(far.drop)}, " ")]++
					}
				}
			}
			plain := 0
			for key := range frontends {
				if !key.Inside {
					plain++
				}
			}
			Expect(plain).To(Equal(checked), "upstream serves nothing else")
			model.Changes()
			answers, _ := model.Checks()
			name := types.NamespacedName{Namespace: "default", Name: "web"}
			if s.Spec.HealthCheckNodePort == 0 {
				Expect(answers).To(BeEmpty())
			} else {
				Expect(answers[name].Ready).To(Equal(o.endpoints.LocalReadyEndpoints()[name]))
			}
		}
		AddReportEntry("outcomes", fmt.Sprint(outcomes))
		for _, outcome := range []string{"cluster true false", "cluster false false", "balancer false true", "node true false", "external false true"} {
			Expect(outcomes).To(HaveKey(outcome))
		}
	})
})
