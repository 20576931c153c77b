package proxy

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	util "k8s.io/kubernetes/pkg/api/v1/service"

	"drayage.dev/network/health"
	"drayage.dev/network/spec"
	"drayage.dev/network/watch"
)

// Model compiles Services and EndpointSlices to frontends, a service at a time, and host ports of this
// node's pods, a pod at a time. It is not safe for use from several goroutines.
type Model struct {
	node     Node
	services map[types.NamespacedName]*watch.Service
	// slices are kept by the service that they belong to; owners finds the service of a slice that is
	// deleted or relabelled.
	slices map[types.NamespacedName][]*watch.EndpointSlice
	owners map[types.NamespacedName]types.NamespacedName
	// pods are those of this node that have host ports.
	pods map[types.NamespacedName]*corev1.Pod
	// uses counts each pod's endpoints.
	uses map[types.UID]uses
	// revision is the highest resource version of any slice, gone ones included.
	revision uint64

	dirty    sets.Set[owner]
	compiled map[owner][]compiled // sorted by key
	// claims are sorted: the first has the key. Two services may ask for one key, of an external
	// address for instance.
	claims  map[spec.Key][]claim
	desired map[spec.Key]*spec.Frontend
	// checks are what is answered at health check ports, by service; news says that they have changed.
	checks map[types.NamespacedName]health.Answer
	news   bool
}

// uses are how many endpoints of all slices a pod is, and how many of them take new connections.
type uses struct{ present, usable int32 }

// compiled is one frontend of an owner.
type compiled struct {
	key      spec.Key
	frontend *spec.Frontend
}

// owner is a service, or a pod with host ports.
type owner struct {
	pod bool
	types.NamespacedName
}

func serviceOwner(name types.NamespacedName) owner { return owner{NamespacedName: name} }

type claim struct {
	since time.Time
	owner owner
}

func (c claim) compare(other claim) int {
	order := cmp.Or(c.since.Compare(other.since),
		cmp.Compare(c.owner.Namespace, other.owner.Namespace), cmp.Compare(c.owner.Name, other.owner.Name))
	if order == 0 && c.owner.pod != other.owner.pod {
		if c.owner.pod {
			return 1
		}
		return -1
	}
	return order
}

// NewModel returns a model without services.
func NewModel(node Node) *Model {
	return &Model{
		node:     node,
		services: map[types.NamespacedName]*watch.Service{},
		slices:   map[types.NamespacedName][]*watch.EndpointSlice{},
		owners:   map[types.NamespacedName]types.NamespacedName{},
		pods:     map[types.NamespacedName]*corev1.Pod{},
		uses:     map[types.UID]uses{},
		dirty:    sets.New[owner](),
		compiled: map[owner][]compiled{},
		claims:   map[spec.Key][]claim{},
		desired:  map[spec.Key]*spec.Frontend{},
		checks:   map[types.NamespacedName]health.Answer{},
	}
}

// SetService adds or replaces a service.
func (m *Model) SetService(service *watch.Service) {
	m.services[service.NamespacedName] = service
	m.dirty.Insert(serviceOwner(service.NamespacedName))
}

// DeleteService takes a service away.
func (m *Model) DeleteService(name types.NamespacedName) {
	delete(m.services, name)
	m.dirty.Insert(serviceOwner(name))
}

// SetPod adds or replaces a pod of this node. The model keeps the object, if it has host ports.
func (m *Model) SetPod(pod *corev1.Pod) {
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	if len(hostPorts(pod)) == 0 {
		m.DeletePod(name)
		return
	}
	m.pods[name] = pod
	m.dirty.Insert(owner{true, name})
}

// DeletePod takes a pod away.
func (m *Model) DeletePod(name types.NamespacedName) {
	if _, known := m.pods[name]; known {
		delete(m.pods, name)
		m.dirty.Insert(owner{true, name})
	}
}

// Checks returns what health check ports answer from now on, and whether that is new since the last call.
// Changes comes first.
func (m *Model) Checks() (checks map[types.NamespacedName]health.Answer, news bool) {
	news, m.news = m.news, false
	return maps.Clone(m.checks), news
}

// SetSlice adds or replaces an endpoint slice.
func (m *Model) SetSlice(kept *watch.EndpointSlice) {
	slice := kept.Unpack()
	service := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
	m.DeleteSlice(kept.NamespacedName, slice.ResourceVersion)
	if service.Name == "" || slice.AddressType == discoveryv1.AddressTypeFQDN {
		return
	}
	m.slices[service] = append(m.slices[service], kept)
	m.owners[kept.NamespacedName] = service
	m.count(slice, +1)
	m.dirty.Insert(serviceOwner(service))
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
	delete(m.owners, name)
	at := slices.IndexFunc(m.slices[service], func(slice *watch.EndpointSlice) bool { return slice.NamespacedName == name })
	m.count(m.slices[service][at].Unpack(), -1)
	if m.slices[service] = slices.Delete(m.slices[service], at, at+1); len(m.slices[service]) == 0 {
		delete(m.slices, service)
	}
	m.dirty.Insert(serviceOwner(service))
}

func (m *Model) count(slice *discoveryv1.EndpointSlice, by int32) {
	for _, endpoint := range slice.Endpoints {
		if endpoint.TargetRef == nil {
			continue
		}
		pod := m.uses[endpoint.TargetRef.UID]
		pod.present += by
		if usable(endpoint.Conditions) {
			pod.usable += by
		}
		if pod.present == 0 {
			delete(m.uses, endpoint.TargetRef.UID)
		} else {
			m.uses[endpoint.TargetRef.UID] = pod
		}
	}
}

// Revision is the resource version up to which the model knows every slice; 0 means that it knows none.
func (m *Model) Revision() uint64 { return m.revision }

// Present tells whether any slice has the pod as an endpoint, in whatever condition.
func (m *Model) Present(pod types.UID) bool { return m.uses[pod].present > 0 }

// Usable tells whether any slice has the pod as an endpoint for new connections.
func (m *Model) Usable(pod types.UID) bool { return m.uses[pod].usable > 0 }

// Desired returns a copy of all frontends, changes that Changes has not returned yet apart.
func (m *Model) Desired() map[spec.Key]*spec.Frontend { return maps.Clone(m.desired) }

// Frontends returns what a service asks for, as it was when Changes was called; another may have claimed it before.
func (m *Model) Frontends(service types.NamespacedName) map[spec.Key]*spec.Frontend {
	result := map[spec.Key]*spec.Frontend{}
	for _, c := range m.compiled[serviceOwner(service)] {
		result[c.key] = c.frontend
	}
	return result
}

// frontend is what an owner asks for at the key; nil when it asks for nothing.
func (m *Model) frontend(name owner, key spec.Key) *spec.Frontend {
	return frontendOf(m.compiled[name], key)
}

// frontendOf finds the one with the key among frontends that are sorted; nil without any.
func frontendOf(all []compiled, key spec.Key) *spec.Frontend {
	if at, found := slices.BinarySearchFunc(all, key, func(c compiled, key spec.Key) int { return c.key.Compare(key) }); found {
		return all[at].frontend
	}
	return nil
}

// Changes compiles what has changed since the last call and returns the frontends that are different
// for it.
func (m *Model) Changes() spec.Changes {
	touched := sets.New[spec.Key]()
	for name := range m.dirty {
		m.recompile(name, touched)
	}
	m.dirty = sets.New[owner]() // the first one had room for all services
	changes := spec.Changes{}
	for key := range touched {
		var next *spec.Frontend
		if claims := m.claims[key]; len(claims) > 0 {
			next = m.frontend(claims[0].owner, key)
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

// recompile renews one owner's frontends and claims and notes the keys that it has or had.
func (m *Model) recompile(name owner, touched sets.Set[spec.Key]) {
	before := m.compiled[name]
	for _, old := range before {
		touched.Insert(old.key)
		m.claims[old.key] = slices.DeleteFunc(m.claims[old.key], func(c claim) bool { return c.owner == name })
		if len(m.claims[old.key]) == 0 {
			delete(m.claims, old.key)
		}
	}
	delete(m.compiled, name)
	var frontends map[spec.Key]*spec.Frontend
	var since time.Time
	if name.pod {
		if pod := m.pods[name.NamespacedName]; pod != nil {
			frontends, since = compilePod(m.node, pod), pod.CreationTimestamp.Time
		}
	} else {
		var service *corev1.Service
		if kept := m.services[name.NamespacedName]; kept != nil {
			service = kept.Unpack()
		}
		endpoints := m.endpoints(name.NamespacedName)
		m.check(name.NamespacedName, service, endpoints)
		if service != nil {
			frontends, since = compile(m.node, service, endpoints, func(key spec.Key) *spec.Frontend { return frontendOf(before, key) }), service.CreationTimestamp.Time
		}
	}
	if len(frontends) == 0 {
		return
	}
	all := make([]compiled, 0, len(frontends))
	own := claim{since: since, owner: name}
	for key, f := range frontends {
		all = append(all, compiled{key, f})
		touched.Insert(key)
		at, _ := slices.BinarySearchFunc(m.claims[key], own, claim.compare)
		m.claims[key] = slices.Insert(m.claims[key], at, own)
	}
	slices.SortFunc(all, func(a, b compiled) int { return a.key.Compare(b.key) })
	m.compiled[name] = all
}

// endpoints are a service's slices, but for those of services that are headless by label: DNS leads to
// their endpoints, and nothing else does.
func (m *Model) endpoints(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	var all []*discoveryv1.EndpointSlice
	for _, kept := range m.slices[service] {
		slice := kept.Unpack()
		if _, headless := slice.Labels[corev1.IsHeadlessService]; !headless {
			all = append(all, slice)
		}
	}
	return all
}

// check renews what is told of a service at its health check port.
func (m *Model) check(name types.NamespacedName, service *corev1.Service, endpoints []*discoveryv1.EndpointSlice) {
	old := m.checks[name]
	var next health.Answer
	if service != nil && proxied(service) && util.NeedsHealthCheck(service) {
		next = health.Answer{Port: uint16(service.Spec.HealthCheckNodePort), Ready: readyHere(m.node, endpoints)}
	}
	if next.Port == 0 {
		delete(m.checks, name)
	} else {
		m.checks[name] = next
	}
	m.news = m.news || old != next
}
