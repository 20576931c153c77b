package dns

import (
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/internal/upstream"
)

// Store is what the API has said about services and their endpoints, indexed for questions. It is
// package watch's handler; its methods may be called from any goroutine.
type Store struct {
	mu sync.RWMutex
	// known says that the store may be asked: a name that is not in it does not exist.
	known    bool
	changes  uint64
	services map[types.NamespacedName]*corev1.Service
	// spaces counts the services of each namespace.
	spaces map[string]int
	slices map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice
	owners map[types.NamespacedName]types.NamespacedName
	// clusterIPs and endpoints lead from addresses to services.
	clusterIPs map[netip.Addr]types.NamespacedName
	endpoints  map[netip.Addr]sets.Set[types.NamespacedName]
}

// NewStore returns an empty store, which is not Known.
func NewStore() *Store {
	return &Store{
		services:   map[types.NamespacedName]*corev1.Service{},
		spaces:     map[string]int{},
		slices:     map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		owners:     map[types.NamespacedName]types.NamespacedName{},
		clusterIPs: map[netip.Addr]types.NamespacedName{},
		endpoints:  map[netip.Addr]sets.Set[types.NamespacedName]{},
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
func (s *Store) SetService(service *dcorev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
	s.dropService(name)
	s.services[name] = upstream.Service(service)
	s.spaces[name.Namespace]++
	for _, address := range clusterIPs(s.services[name]) {
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
	for _, address := range clusterIPs(old) {
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
func (s *Store) SetEndpointSlice(object *ddiscoveryv1.EndpointSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slice := upstream.EndpointSlice(object)
	name := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
	s.dropSlice(name)
	s.changes++
	service := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
	if service.Name == "" || slice.AddressType == discoveryv1.AddressTypeFQDN {
		return
	}
	if s.slices[service] == nil {
		s.slices[service] = map[string]*discoveryv1.EndpointSlice{}
	}
	s.slices[service][slice.Name] = slice
	s.owners[name] = service
	for _, endpoint := range slice.Endpoints {
		for _, address := range addresses(endpoint) {
			if s.endpoints[address] == nil {
				s.endpoints[address] = sets.New[types.NamespacedName]()
			}
			s.endpoints[address].Insert(service)
		}
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
	old := s.slices[service][name.Name]
	delete(s.owners, name)
	delete(s.slices[service], name.Name)
	if len(s.slices[service]) == 0 {
		delete(s.slices, service)
	}
	for _, endpoint := range old.Endpoints {
		for _, address := range addresses(endpoint) {
			if !s.stillHas(service, address) {
				s.endpoints[address].Delete(service)
			}
			if s.endpoints[address].Len() == 0 {
				delete(s.endpoints, address)
			}
		}
	}
}

// stillHas tells whether one of the service's remaining slices has the address.
func (s *Store) stillHas(service types.NamespacedName, address netip.Addr) bool {
	for _, slice := range s.slices[service] {
		for _, endpoint := range slice.Endpoints {
			if slices.Contains(addresses(endpoint), address) {
				return true
			}
		}
	}
	return false
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
// lock.
func (s *Store) hosts(service types.NamespacedName) []host {
	var result []host
	for _, slice := range s.slices[service] {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
				continue
			}
			for _, address := range addresses(endpoint) {
				result = append(result, host{name: hostName(endpoint, address), address: address, ports: slice.Ports})
			}
		}
	}
	slices.SortFunc(result, func(a, b host) int { return a.address.Compare(b.address) })
	return result
}

// hostName is the endpoint's name below its service's: its hostname, else its address with dashes.
func hostName(endpoint discoveryv1.Endpoint, address netip.Addr) string {
	if endpoint.Hostname != nil && *endpoint.Hostname != "" {
		return *endpoint.Hostname
	}
	return dashed(address)
}
