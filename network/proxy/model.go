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
)

// Model compiles Services and EndpointSlices to frontends, a service at a time, and host ports of this
// node's pods, a pod at a time. It is not safe for use from several goroutines.
type Model struct {
	node     Node
	services map[types.NamespacedName]*corev1.Service
	// slices are kept by the service that they belong to, then by name; owners finds the service of a
	// slice that is deleted or relabelled.
	slices map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice
	owners map[types.NamespacedName]types.NamespacedName
	// pods are those of this node that have host ports.
	pods map[types.NamespacedName]*corev1.Pod
	// usable counts, for each pod, the slices' endpoints that take new connections to it; present counts
	// all of its endpoints.
	usable, present map[types.UID]int
	// revision is the highest resource version of any slice, gone ones included.
	revision uint64

	dirty    sets.Set[owner]
	compiled map[owner]map[spec.Key]*spec.Frontend
	// claims are sorted: the first has the key. Two services may ask for one key, of an external
	// address for instance.
	claims  map[spec.Key][]claim
	desired map[spec.Key]*spec.Frontend
	// checks are what is answered at health check ports, by service; news says that they have changed.
	checks map[types.NamespacedName]health.Answer
	news   bool
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
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		owners:   map[types.NamespacedName]types.NamespacedName{},
		pods:     map[types.NamespacedName]*corev1.Pod{},
		usable:   map[types.UID]int{}, present: map[types.UID]int{},
		dirty:    sets.New[owner](),
		compiled: map[owner]map[spec.Key]*spec.Frontend{},
		claims:   map[spec.Key][]claim{},
		desired:  map[spec.Key]*spec.Frontend{},
		checks:   map[types.NamespacedName]health.Answer{},
	}
}

// SetService adds or replaces a service. The model keeps the object.
func (m *Model) SetService(service *corev1.Service) {
	name := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
	m.services[name] = service
	m.dirty.Insert(serviceOwner(name))
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
	m.count(m.slices[service][name.Name], -1)
	delete(m.owners, name)
	delete(m.slices[service], name.Name)
	if len(m.slices[service]) == 0 {
		delete(m.slices, service)
	}
	m.dirty.Insert(serviceOwner(service))
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
			next = m.compiled[claims[0].owner][key]
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
	for key := range m.compiled[name] {
		touched.Insert(key)
		m.claims[key] = slices.DeleteFunc(m.claims[key], func(c claim) bool { return c.owner == name })
		if len(m.claims[key]) == 0 {
			delete(m.claims, key)
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
		service, endpoints := m.services[name.NamespacedName], m.endpoints(name.NamespacedName)
		m.check(name.NamespacedName, service, endpoints)
		if service != nil {
			frontends, since = compile(m.node, service, endpoints), service.CreationTimestamp.Time
		}
	}
	if len(frontends) == 0 {
		return
	}
	m.compiled[name] = frontends
	own := claim{since: since, owner: name}
	for key := range frontends {
		touched.Insert(key)
		at, _ := slices.BinarySearchFunc(m.claims[key], own, claim.compare)
		m.claims[key] = slices.Insert(m.claims[key], at, own)
	}
}

// endpoints are a service's slices, but for those of services that are headless by label: DNS leads to
// their endpoints, and nothing else does.
func (m *Model) endpoints(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	var all []*discoveryv1.EndpointSlice
	for _, slice := range m.slices[service] {
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
