package proxy

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"drayage.dev/network/spec"
)

// Model compiles Services and EndpointSlices to frontends, a service at a time. It is not safe for use
// from several goroutines.
type Model struct {
	node     Node
	services map[types.NamespacedName]*corev1.Service
	// slices are kept by the service that they belong to, then by name; owners finds the service of a
	// slice that is deleted or relabelled.
	slices map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice
	owners map[types.NamespacedName]types.NamespacedName
	// usable counts, for each pod, the slices' endpoints that take new connections to it; present counts
	// all of its endpoints.
	usable, present map[types.UID]int
	// revision is the highest resource version of any slice, gone ones included.
	revision uint64

	dirty    sets.Set[types.NamespacedName]
	compiled map[types.NamespacedName]map[spec.Key]*spec.Frontend
	// claims are sorted: the first has the key. Two services may ask for one key, of an external
	// address for instance.
	claims  map[spec.Key][]claim
	desired map[spec.Key]*spec.Frontend
}

type claim struct {
	since   time.Time
	service types.NamespacedName
}

func (c claim) compare(other claim) int {
	return cmp.Or(c.since.Compare(other.since),
		cmp.Compare(c.service.Namespace, other.service.Namespace), cmp.Compare(c.service.Name, other.service.Name))
}

// NewModel returns a model without services.
func NewModel(node Node) *Model {
	return &Model{
		node:     node,
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		owners:   map[types.NamespacedName]types.NamespacedName{},
		usable:   map[types.UID]int{}, present: map[types.UID]int{},
		dirty:    sets.New[types.NamespacedName](),
		compiled: map[types.NamespacedName]map[spec.Key]*spec.Frontend{},
		claims:   map[spec.Key][]claim{},
		desired:  map[spec.Key]*spec.Frontend{},
	}
}

// SetService adds or replaces a service. The model keeps the object.
func (m *Model) SetService(service *corev1.Service) {
	name := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
	m.services[name] = service
	m.dirty.Insert(name)
}

// DeleteService takes a service away.
func (m *Model) DeleteService(name types.NamespacedName) {
	delete(m.services, name)
	m.dirty.Insert(name)
}

// SetSlice adds or replaces an endpoint slice. The model keeps the object.
func (m *Model) SetSlice(slice *discoveryv1.EndpointSlice) {
	name := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
	service := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
	m.DeleteSlice(name, slice.ResourceVersion)
	if service.Name == "" || slice.AddressType == discoveryv1.AddressTypeFQDN {
		return
	}
	if m.slices[service] == nil {
		m.slices[service] = map[string]*discoveryv1.EndpointSlice{}
	}
	m.slices[service][slice.Name] = slice
	m.owners[name] = service
	m.count(slice, +1)
	m.dirty.Insert(service)
}

// DeleteSlice takes an endpoint slice away, whose last resource version it was.
func (m *Model) DeleteSlice(name types.NamespacedName, resourceVersion string) {
	// All slices come over one watch, in the order of their revisions: what is behind one is known.
	if revision, err := strconv.ParseUint(resourceVersion, 10, 64); err == nil {
		m.revision = max(m.revision, revision)
	}
	service, ok := m.owners[name]
	if !ok {
		return
	}
	m.count(m.slices[service][name.Name], -1)
	delete(m.owners, name)
	delete(m.slices[service], name.Name)
	if len(m.slices[service]) == 0 {
		delete(m.slices, service)
	}
	m.dirty.Insert(service)
}

func (m *Model) count(slice *discoveryv1.EndpointSlice, by int) {
	for _, endpoint := range slice.Endpoints {
		if endpoint.TargetRef == nil {
			continue
		}
		uid := endpoint.TargetRef.UID
		if m.present[uid] += by; m.present[uid] == 0 {
			delete(m.present, uid)
		}
		if !usable(endpoint.Conditions) {
			continue
		}
		if m.usable[uid] += by; m.usable[uid] == 0 {
			delete(m.usable, uid)
		}
	}
}

// Revision is the resource version up to which the model knows every slice; 0 means that it knows none.
func (m *Model) Revision() uint64 { return m.revision }

// Present tells whether any slice has the pod as an endpoint, in whatever condition.
func (m *Model) Present(pod types.UID) bool { return m.present[pod] > 0 }

// Usable tells whether any slice has the pod as an endpoint for new connections.
func (m *Model) Usable(pod types.UID) bool { return m.usable[pod] > 0 }

// Desired returns a copy of all frontends, changes that Changes has not returned yet apart.
func (m *Model) Desired() map[spec.Key]*spec.Frontend {
	result := make(map[spec.Key]*spec.Frontend, len(m.desired))
	for key, f := range m.desired {
		result[key] = f
	}
	return result
}

// Changes compiles what has changed since the last call and returns the frontends that are different
// for it.
func (m *Model) Changes() spec.Changes {
	touched := sets.New[spec.Key]()
	for name := range m.dirty {
		m.recompile(name, touched)
	}
	m.dirty.Clear()
	changes := spec.Changes{}
	for key := range touched {
		var next *spec.Frontend
		if claims := m.claims[key]; len(claims) > 0 {
			next = m.compiled[claims[0].service][key]
		}
		if next.Equal(m.desired[key]) {
			continue
		}
		changes[key] = next
		if next == nil {
			delete(m.desired, key)
		} else {
			m.desired[key] = next
		}
	}
	return changes
}

// recompile renews one service's frontends and claims and notes the keys that it has or had.
func (m *Model) recompile(name types.NamespacedName, touched sets.Set[spec.Key]) {
	for key := range m.compiled[name] {
		touched.Insert(key)
		m.claims[key] = slices.DeleteFunc(m.claims[key], func(c claim) bool { return c.service == name })
		if len(m.claims[key]) == 0 {
			delete(m.claims, key)
		}
	}
	delete(m.compiled, name)
	service := m.services[name]
	if service == nil {
		return
	}
	var endpoints []*discoveryv1.EndpointSlice
	for _, slice := range m.slices[name] {
		endpoints = append(endpoints, slice)
	}
	frontends := compile(m.node, service, endpoints)
	if len(frontends) == 0 {
		return
	}
	m.compiled[name] = frontends
	own := claim{since: service.CreationTimestamp.Time, service: name}
	for key := range frontends {
		touched.Insert(key)
		at, _ := slices.BinarySearchFunc(m.claims[key], own, claim.compare)
		m.claims[key] = slices.Insert(m.claims[key], at, own)
	}
}
