package dns

import (
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/network/watch"
)

// Store is what the API has said about services and their endpoints, indexed for questions. It is
// package watch's handler; its methods may be called from any goroutine.
type Store struct {
	mu sync.RWMutex
	// known says that the store may be asked: a name that is not in it does not exist.
	known    bool
	changes  uint64
	services map[types.NamespacedName]*watch.Service
	// spaces counts the services of each namespace.
	spaces map[string]int
	slices map[types.NamespacedName][]*watch.EndpointSlice
	owners map[types.NamespacedName]types.NamespacedName
	// clusterIPs lead from addresses to services, endpoints to the slices that have them.
	clusterIPs map[netip.Addr]types.NamespacedName
	endpoints  map[netip.Addr][]*watch.EndpointSlice
	// asked are the hosts of services that questions were about since they changed last.
	asked memory
}

// NewStore returns an empty store, which is not Known.
func NewStore() *Store {
	return &Store{
		services:   map[types.NamespacedName]*watch.Service{},
		spaces:     map[string]int{},
		slices:     map[types.NamespacedName][]*watch.EndpointSlice{},
		owners:     map[types.NamespacedName]types.NamespacedName{},
		clusterIPs: map[netip.Addr]types.NamespacedName{},
		endpoints:  map[netip.Addr][]*watch.EndpointSlice{},
	}
}

// SetKnown says that the store holds everything: what it lacks does not exist.
func (s *Store) SetKnown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = true
	s.changes++
}

// Known tells whether SetKnown was called.
func (s *Store) Known() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.known
}

// SetService enters a service.
func (s *Store) SetService(service *watch.Service) {
	addresses := clusterIPs(service.Unpack())
	s.mu.Lock()
	defer s.mu.Unlock()
	name := service.NamespacedName
	s.dropService(name)
	s.services[name] = service
	s.spaces[name.Namespace]++
	for _, address := range addresses {
		s.clusterIPs[address] = name
	}
	s.changes++
}

// DeleteService removes a service.
func (s *Store) DeleteService(name types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropService(name)
	s.changes++
}

func (s *Store) dropService(name types.NamespacedName) {
	old := s.services[name]
	if old == nil {
		return
	}
	for _, address := range clusterIPs(old.Unpack()) {
		if s.clusterIPs[address] == name {
			delete(s.clusterIPs, address)
		}
	}
	delete(s.services, name)
	if s.spaces[name.Namespace]--; s.spaces[name.Namespace] == 0 {
		delete(s.spaces, name.Namespace)
	}
}

// clusterIPs are a service's own addresses; none for headless services.
func clusterIPs(service *corev1.Service) []netip.Addr {
	var result []netip.Addr
	for _, text := range append([]string{service.Spec.ClusterIP}, service.Spec.ClusterIPs...) {
		if address, err := netip.ParseAddr(text); err == nil && !slices.Contains(result, address.Unmap()) {
			result = append(result, address.Unmap())
		}
	}
	return result
}

// SetEndpointSlice enters a slice.
func (s *Store) SetEndpointSlice(kept *watch.EndpointSlice) {
	slice := kept.Unpack()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropSlice(kept.NamespacedName)
	s.changes++
	service := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
	if service.Name == "" || slice.AddressType == discoveryv1.AddressTypeFQDN {
		return
	}
	s.asked.forget(service)
	s.slices[service] = append(s.slices[service], kept)
	s.owners[kept.NamespacedName] = service
	for _, address := range allAddresses(slice) {
		s.endpoints[address] = append(s.endpoints[address], kept)
	}
}

// DeleteEndpointSlice removes a slice.
func (s *Store) DeleteEndpointSlice(name types.NamespacedName, _ string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropSlice(name)
	s.changes++
}

func (s *Store) dropSlice(name types.NamespacedName) {
	service, ok := s.owners[name]
	if !ok {
		return
	}
	at := slices.IndexFunc(s.slices[service], func(slice *watch.EndpointSlice) bool { return slice.NamespacedName == name })
	old := s.slices[service][at]
	s.asked.forget(service)
	delete(s.owners, name)
	if s.slices[service] = slices.Delete(s.slices[service], at, at+1); len(s.slices[service]) == 0 {
		delete(s.slices, service)
	}
	for _, address := range allAddresses(old.Unpack()) {
		s.endpoints[address] = slices.DeleteFunc(s.endpoints[address], func(slice *watch.EndpointSlice) bool { return slice == old })
		if len(s.endpoints[address]) == 0 {
			delete(s.endpoints, address)
		}
	}
}

// allAddresses are those of a slice's endpoints, each once.
func allAddresses(slice *discoveryv1.EndpointSlice) []netip.Addr {
	var all []netip.Addr
	for _, endpoint := range slice.Endpoints {
		all = append(all, addresses(endpoint)...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

func addresses(endpoint discoveryv1.Endpoint) []netip.Addr {
	var result []netip.Addr
	for _, text := range endpoint.Addresses {
		if address, err := netip.ParseAddr(text); err == nil {
			result = append(result, address.Unmap())
		}
	}
	return result
}

// host is one endpoint of a headless service, with the name that it has below the service's.
type host struct {
	name    string
	address netip.Addr
	ports   []discoveryv1.EndpointPort
}

// hosts are the ready endpoints of a service, each name and address once, sorted. The caller holds the
// lock, and writes nothing to them.
func (s *Store) hosts(service types.NamespacedName) []host {
	if result, ok := s.asked.hosts(service); ok {
		return result
	}
	var result []host
	for _, kept := range s.slices[service] {
		result = append(result, hostsOf(kept.Unpack())...)
	}
	slices.SortFunc(result, func(a, b host) int { return a.address.Compare(b.address) })
	s.asked.remember(service, result)
	return result
}

// hostsOf are the ready endpoints of one slice.
func hostsOf(slice *discoveryv1.EndpointSlice) []host {
	var result []host
	for _, endpoint := range slice.Endpoints {
		if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
			continue
		}
		for _, address := range addresses(endpoint) {
			result = append(result, host{name: hostName(endpoint, address), address: address, ports: slice.Ports})
		}
	}
	return result
}

// hostName is the endpoint's name below its service's: its hostname, else its address with dashes.
func hostName(endpoint discoveryv1.Endpoint, address netip.Addr) string {
	if endpoint.Hostname != nil && *endpoint.Hostname != "" {
		return *endpoint.Hostname
	}
	return dashed(address)
}
