package proxy_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy/apis"
	"k8s.io/utils/ptr"

	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/network/health"
	"drayage.dev/network/proxy"
	"drayage.dev/network/spec"
	"drayage.dev/network/watch"
)

var thisNode = proxy.Node{Name: "here", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}

func service(name, clusterIP string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
			Ports: []corev1.ServicePort{{Name: "web", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

// endpoint is ready unless states say otherwise: "unready", "ending" (and still serving).
func endpoint(address string, states ...string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses: []string{address}, NodeName: ptr.To("here"),
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", UID: types.UID("uid-" + address)},
		Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
	}
	for _, state := range states {
		e.Conditions.Ready = ptr.To(false)
		if state == "ending" {
			e.Conditions.Terminating = ptr.To(true)
		} else {
			e.Conditions.Serving = ptr.To(false)
		}
	}
	return e
}

// there is the endpoint on another node.
func there(e discoveryv1.Endpoint) discoveryv1.Endpoint {
	e.NodeName = ptr.To("there")
	return e
}

// inside is the key of the frontend that only clients on the node use.
func inside(key spec.Key) spec.Key {
	key.Inside = true
	return key
}

func slice(name, service string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("web"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints:   endpoints,
	}
}

func at(address string, proto uint8) spec.Key {
	parsed := netip.MustParseAddrPort(address)
	return spec.Key{Addr: parsed.Addr(), Proto: proto, Port: parsed.Port()}
}

// keeping is a Model that is given the API's objects, of which it gets what is kept.
type keeping struct{ *proxy.Model }

func newModel(node proxy.Node) keeping { return keeping{proxy.NewModel(node)} }

func (k keeping) SetService(service *corev1.Service) { k.Model.SetService(watch.KeepService(service)) }

func (k keeping) SetSlice(slice *discoveryv1.EndpointSlice) {
	k.Model.SetSlice(watch.KeepEndpointSlice(slice))
}

func slots(addresses ...string) []netip.AddrPort {
	var result []netip.AddrPort
	for _, address := range addresses {
		result = append(result, netip.MustParseAddrPort(address+":8080"))
	}
	return result
}

var _ = Describe("Model", func() {
	var model keeping
	BeforeEach(func() { model = newModel(thisNode) })

	It("compiles a service and its ready endpoints, sorted, each once", func() {
		model.SetService(service("web", "10.96.0.20"))
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.9"), endpoint("10.244.1.2", "unready")))
		model.SetSlice(slice("web-2", "web", endpoint("10.244.1.3"), endpoint("10.244.1.9"), endpoint("10.244.1.4", "ending")))
		changes := model.Changes()
		Expect(changes).To(HaveLen(1))
		f := changes[at("10.96.0.20:80", 6)]
		Expect(f.Slots).To(Equal(slots("10.244.1.3", "10.244.1.9")))
		Expect(f.Local).To(HaveLen(2))
		Expect(f.Masquerade).To(BeFalse())
		Expect(model.Changes()).To(BeEmpty())
	})

	It("uses ending endpoints only when nothing else is left", func() {
		model.SetService(service("web", "10.96.0.20"))
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.2", "ending"), endpoint("10.244.1.3", "unready")))
		Expect(model.Changes()[at("10.96.0.20:80", 6)].Slots).To(Equal(slots("10.244.1.2")))
	})

	It("refuses where there is no endpoint, and forgets what is deleted", func() {
		model.SetService(service("web", "10.96.0.20"))
		changes := model.Changes()
		Expect(changes).To(HaveKeyWithValue(at("10.96.0.20:80", 6), Equal(&spec.Frontend{})))
		model.DeleteService(types.NamespacedName{Namespace: "default", Name: "web"})
		Expect(model.Changes()).To(Equal(spec.Changes{at("10.96.0.20:80", 6): nil}))
	})

	It("keeps traffic of the cluster on the node where that is asked for", func() {
		local := func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
			s.Spec.ExternalIPs = []string{"198.51.100.7"}
		}
		model.SetService(service("web", "10.96.0.20", local))
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.2", "ending"), there(endpoint("10.244.2.2"))))
		changes := model.Changes()
		Expect(changes[at("10.96.0.20:80", 6)].Slots).To(Equal(slots("10.244.1.2")), "ending, but nothing else is here")
		Expect(changes[at("198.51.100.7:80", 6)].Slots).To(Equal(slots("10.244.2.2")), "from outside, all serve")
		model.SetSlice(slice("web-1", "web", there(endpoint("10.244.2.2"))))
		Expect(model.Changes()[at("10.96.0.20:80", 6)].Slots).To(BeEmpty(), "refused")
	})

	balanced := func(change ...func(*corev1.Service)) *corev1.Service {
		return service("web", "10.96.0.20", append([]func(*corev1.Service){func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.Ports[0].NodePort = 30080
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
		}}, change...)...)
	}
	local := func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = 30999
	}

	It("keeps clients from outside on the node, with their address, where that is asked for", func() {
		model.SetService(balanced(local))
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.2"), there(endpoint("10.244.2.2"))))
		changes := model.Changes()
		for _, address := range []string{"192.0.2.1:80", "192.0.2.1:30080"} {
			f := changes[at(address, 6)]
			Expect(f.Slots).To(Equal(slots("10.244.1.2")))
			Expect([]bool{f.Masquerade, f.Drop}).To(Equal([]bool{false, false}))
			Expect(changes[inside(at(address, 6))].Slots).To(Equal(slots("10.244.1.2", "10.244.2.2")), "clients on the node go anywhere")
		}
		Expect(changes[at("10.96.0.20:80", 6)].Slots).To(HaveLen(2))
		Expect(changes).NotTo(HaveKey(inside(at("10.96.0.20:80", 6))))
		answers, news := model.Checks()
		Expect(news).To(BeTrue())
		Expect(slices.Collect(maps.Values(answers))).To(Equal([]health.Answer{{Port: 30999, Ready: 1}}))

		By("and drops what comes while there are endpoints elsewhere only")
		model.SetSlice(slice("web-1", "web", there(endpoint("10.244.2.2"))))
		f := model.Changes()[at("192.0.2.1:30080", 6)]
		Expect(f.Slots).To(BeEmpty())
		Expect(f.Drop).To(BeTrue())
		answers, _ = model.Checks()
		Expect(slices.Collect(maps.Values(answers))).To(Equal([]health.Answer{{Port: 30999}}))
		_, news = model.Checks()
		Expect(news).To(BeFalse())

		By("and refuses when there is none anywhere")
		model.SetSlice(slice("web-1", "web"))
		Expect(model.Changes()[at("192.0.2.1:30080", 6)].Drop).To(BeFalse())
		By("and serves ending pods where nothing else is, which load balancers do not hear of")
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.2", "ending"), there(endpoint("10.244.2.2"))))
		Expect(model.Changes()[at("192.0.2.1:30080", 6)].Slots).To(Equal(slots("10.244.1.2")))
		answers, _ = model.Checks()
		Expect(slices.Collect(maps.Values(answers))).To(Equal([]health.Answer{{Port: 30999}}))
		model.DeleteService(types.NamespacedName{Namespace: "default", Name: "web"})
		model.Changes()
		answers, _ = model.Checks()
		Expect(answers).To(BeEmpty())
	})

	It("lets load balancers' sources in only, each range once", func() {
		model.SetService(balanced(func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"10.2.0.0/16", " 10.0.0.0/8", "10.1.0.0/16", "192.168.0.1/32"}
		}))
		changes := model.Changes()
		Expect(changes[at("192.0.2.1:80", 6)].Sources).To(Equal([]netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.0.1/32")}))
		Expect(changes[at("192.0.2.1:30080", 6)].Sources).To(BeEmpty(), "as upstream has it")
		Expect(changes[at("10.96.0.20:80", 6)].Sources).To(BeEmpty())
		model.SetService(balanced(func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.2.0.0/16", "0.0.0.0/0"} }))
		Expect(model.Changes()[at("192.0.2.1:80", 6)].Sources).To(BeEmpty(), "everybody")
	})

	It("divides connections by the weights of groups", func() {
		group := func(name, weight string, addresses ...string) *discoveryv1.EndpointSlice {
			var endpoints []discoveryv1.Endpoint
			for _, address := range addresses {
				endpoints = append(endpoints, endpoint(address))
			}
			s := slice("web-"+name, "web", endpoints...)
			s.Labels[ddiscoveryv1.GroupLabel] = name
			if weight != "" {
				s.Annotations = map[string]string{ddiscoveryv1.WeightAnnotation: weight}
			}
			return s
		}
		groups := func() []spec.Group {
			GinkgoHelper()
			changes := model.Changes()
			Expect(changes).To(HaveKey(at("10.96.0.20:80", 6)))
			return changes[at("10.96.0.20:80", 6)].Groups
		}
		model.SetService(service("web", "10.96.0.20"))
		model.SetSlice(group("stable", "", "10.244.1.2", "10.244.1.3", "10.244.1.4"))
		model.SetSlice(group("canary", "", "10.244.1.9"))
		Expect(groups()).To(BeEmpty(), "nobody gave a weight")
		model.SetSlice(group("stable", "99", "10.244.1.2", "10.244.1.3", "10.244.1.4"))
		f := model.Changes()[at("10.96.0.20:80", 6)]
		Expect(f.Slots).To(Equal(slots("10.244.1.2", "10.244.1.3", "10.244.1.4")), "the other has none")
		model.SetSlice(group("canary", "1", "10.244.1.9"))
		Expect(groups()).To(Equal([]spec.Group{
			{Share: 10, Slots: slots("10.244.1.9")}, {Share: 990, Slots: slots("10.244.1.2", "10.244.1.3", "10.244.1.4")},
		}))
		By("leaving the part of a group without endpoints to the others")
		model.SetSlice(group("stable", "99"))
		Expect(model.Changes()[at("10.96.0.20:80", 6)].Slots).To(Equal(slots("10.244.1.9")))
		By("dividing what does not divide")
		model.SetSlice(group("stable", "1", "10.244.1.2"))
		model.SetSlice(group("third", "1", "10.244.1.3"))
		shares := 0
		for _, g := range groups() {
			Expect(g.Share).To(BeNumerically("~", 333, 1))
			shares += g.Share
		}
		Expect(shares).To(Equal(spec.Shares))
	})

	It("leaves services of other proxies, and endpoints of services that are headless by label, alone", func() {
		model.SetService(service("web", "10.96.0.20"))
		headless := slice("web-1", "web", endpoint("10.244.1.2"))
		headless.Labels[corev1.IsHeadlessService] = ""
		model.SetSlice(headless)
		Expect(model.Changes()[at("10.96.0.20:80", 6)]).To(Equal(&spec.Frontend{}))
		model.SetService(service("web", "10.96.0.20", func(s *corev1.Service) {
			s.Labels = map[string]string{apis.LabelServiceProxyName: "other"}
		}))
		Expect(model.Changes()).To(Equal(spec.Changes{at("10.96.0.20:80", 6): nil}))
	})

	It("leads host ports to the pod of the node", func() {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge"}}
		pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{
			{ContainerPort: 8080, HostPort: 80, Protocol: corev1.ProtocolTCP},
			{ContainerPort: 5353, HostPort: 53, HostIP: "192.0.2.77", Protocol: corev1.ProtocolUDP},
			{ContainerPort: 9090},
		}}}
		model.SetPod(pod)
		Expect(model.Changes()).To(BeEmpty(), "it has no address yet")
		pod = pod.DeepCopy()
		pod.Status.PodIP = "10.244.1.5"
		model.SetPod(pod)
		changes := model.Changes()
		Expect(changes).To(HaveLen(2))
		Expect(changes[at("192.0.2.1:80", 6)]).To(Equal(&spec.Frontend{
			Slots: slots("10.244.1.5"), Local: []netip.Addr{netip.MustParseAddr("10.244.1.5")}}))
		Expect(changes[at("192.0.2.77:53", 17)].Slots).To(Equal([]netip.AddrPort{netip.MustParseAddrPort("10.244.1.5:5353")}))
		own := pod.DeepCopy()
		own.Name, own.Spec.HostNetwork, own.Status.PodIP = "own", true, "192.0.2.1"
		own.Spec.Containers[0].Ports[0].HostPort = 8080
		model.SetPod(own)
		Expect(model.Changes()).To(BeEmpty(), "it has the node's network")
		pod = pod.DeepCopy()
		pod.Status.Phase = corev1.PodSucceeded
		model.SetPod(pod)
		Expect(model.Changes()).To(Equal(spec.Changes{at("192.0.2.1:80", 6): nil, at("192.0.2.77:53", 17): nil}))
		model.DeletePod(types.NamespacedName{Namespace: "default", Name: "edge"})
		Expect(model.Changes()).To(BeEmpty())
	})

	It("opens node ports, external addresses and load balancers on the node, masqueraded", func() {
		model.SetService(service("web", "10.96.0.20", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.Ports[0].NodePort = 30080
			s.Spec.Ports[0].Protocol = corev1.ProtocolUDP
			s.Spec.ExternalIPs = []string{"198.51.100.7"}
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {Hostname: "lb.example"}}
		}))
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.2")))
		changes := model.Changes()
		Expect(maps.Keys(changes)).To(HaveLen(4))
		for _, key := range []string{"192.0.2.1:30080", "198.51.100.7:80", "192.0.2.1:80"} {
			f := changes[at(key, 17)]
			Expect(f).NotTo(BeNil(), key)
			Expect(f.Masquerade).To(BeTrue())
			Expect(f.Affinity).To(Equal(3 * time.Hour))
		}
		Expect(changes[at("10.96.0.20:80", 17)].Masquerade).To(BeFalse())
	})

	It("leaves headless, named and foreign services alone", func() {
		model.SetService(service("headless", "None"))
		model.SetService(service("named", "", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }))
		model.SetService(service("foreign", "10.96.0.30", func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
		}))
		Expect(model.Changes()).To(BeEmpty())
	})

	It("lets the older of two services have an address, and the other when it goes", func() {
		share := func(created int64) func(*corev1.Service) {
			return func(s *corev1.Service) {
				s.Spec.ExternalIPs = []string{"198.51.100.7"}
				s.CreationTimestamp = metav1.Unix(created, 0)
			}
		}
		model.SetService(service("a-younger", "10.96.0.20", share(200)))
		model.SetSlice(slice("a-1", "a-younger", endpoint("10.244.1.2")))
		model.Changes()
		model.SetService(service("older", "10.96.0.21", share(100)))
		model.SetSlice(slice("o-1", "older", endpoint("10.244.1.3")))
		Expect(model.Changes()[at("198.51.100.7:80", 6)].Slots).To(Equal(slots("10.244.1.3")))
		model.DeleteService(types.NamespacedName{Namespace: "default", Name: "older"})
		Expect(model.Changes()[at("198.51.100.7:80", 6)].Slots).To(Equal(slots("10.244.1.2")))
	})

	It("knows which pods take new connections", func() {
		uid := types.UID("uid-10.244.1.2")
		Expect(model.Usable(uid)).To(BeFalse())
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.2")))
		model.SetSlice(slice("other-1", "other", endpoint("10.244.1.2")))
		Expect(model.Usable(uid)).To(BeTrue())
		model.SetSlice(slice("web-1", "web", endpoint("10.244.1.2", "ending")))
		Expect(model.Usable(uid)).To(BeTrue())
		model.DeleteSlice(types.NamespacedName{Namespace: "default", Name: "other-1"}, "")
		Expect(model.Usable(uid)).To(BeFalse())
	})

	It("says the same whatever the order of events, but for which of several ending endpoints serve", func() {
		random := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 3))
		services := map[string]*corev1.Service{}
		slices := map[string]*discoveryv1.EndpointSlice{}
		told := map[spec.Key]*spec.Frontend{}
		for range 3000 {
			step(random, model, services, slices)
			if random.IntN(3) > 0 {
				continue
			}
			for key, f := range model.Changes() {
				Expect(f.Equal(told[key])).To(BeFalse(), "a change that changes nothing")
				if told[key] = f; f == nil {
					delete(told, key)
				}
			}
			Expect(told).To(Equal(model.Desired()))
			fresh, lasting := frontendsOf(services, slices), map[spec.Key]*spec.Frontend(nil)
			Expect(told).To(HaveLen(len(fresh)))
			for key, f := range told {
				if f.Equal(fresh[key]) {
					continue
				}
				if lasting == nil {
					lasting = frontendsOf(services, withoutEnding(slices))
				}
				Expect(lasting[key].Endpoints()).To(BeEmpty(), "%v differs although it has endpoints that are ready", key)
				Expect(f.Endpoints()).NotTo(BeEmpty())
				Expect(fresh[key].Endpoints()).To(ContainElements(f.Endpoints()))
			}
		}
	})
})

// frontendsOf are those of a model that has seen nothing else.
func frontendsOf(services map[string]*corev1.Service, slices map[string]*discoveryv1.EndpointSlice) map[spec.Key]*spec.Frontend {
	fresh := newModel(thisNode)
	for _, s := range slices {
		fresh.SetSlice(s)
	}
	for _, s := range services {
		fresh.SetService(s)
	}
	fresh.Changes()
	return fresh.Desired()
}

// withoutEnding are the slices without their endpoints that are terminating.
func withoutEnding(all map[string]*discoveryv1.EndpointSlice) map[string]*discoveryv1.EndpointSlice {
	result := map[string]*discoveryv1.EndpointSlice{}
	for name, s := range all {
		result[name] = s.DeepCopy()
		result[name].Endpoints = slices.DeleteFunc(result[name].Endpoints, func(e discoveryv1.Endpoint) bool { return ptr.Deref(e.Conditions.Terminating, false) })
	}
	return result
}

// step does one random thing to the model and the truth.
func step(random *rand.Rand, model keeping, services map[string]*corev1.Service, slices map[string]*discoveryv1.EndpointSlice) {
	n := random.IntN(5)
	name, sliceName := fmt.Sprint("svc-", n), fmt.Sprint("slice-", random.IntN(8))
	switch random.IntN(6) {
	case 0:
		model.DeleteService(types.NamespacedName{Namespace: "default", Name: name})
		delete(services, name)
	case 1:
		model.DeleteSlice(types.NamespacedName{Namespace: "default", Name: sliceName}, "")
		delete(slices, sliceName)
	case 2, 3:
		s := service(name, fmt.Sprint("10.96.0.", 20+n), func(s *corev1.Service) {
			if random.IntN(2) == 0 {
				s.Spec.ExternalIPs = []string{fmt.Sprint("198.51.100.", random.IntN(3))}
			}
			if random.IntN(4) == 0 {
				s.Spec.Ports[0].NodePort = 30000 + int32(n)
			}
			if random.IntN(6) == 0 {
				s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"}
			}
		})
		model.SetService(s)
		services[name] = s
	default:
		var endpoints []discoveryv1.Endpoint
		for range random.IntN(4) {
			states := [][]string{nil, nil, {"ending"}, {"unready"}}[random.IntN(4)]
			endpoints = append(endpoints, endpoint(fmt.Sprint("10.244.1.", 2+random.IntN(6)), states...))
		}
		s := slice(sliceName, name, endpoints...)
		model.SetSlice(s)
		slices[sliceName] = s
	}
}
