package dns

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// maxRemembered is how many hosts are remembered, of all services together: about a megabyte. Unpacking the
// slices of a headless service costs more than the rest of an answer, and few services get most questions.
const maxRemembered = 8192

// memory holds the hosts of services, at most maxRemembered. forget is called with the Store locked for writing,
// the others with it locked for reading: so nothing is remembered that has changed.
type memory struct {
	mu       sync.Mutex
	services map[types.NamespacedName][]host
	count    int
}

func (m *memory) hosts(service types.NamespacedName) ([]host, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	hosts, ok := m.services[service]
	return hosts, ok
}

// remember begins anew when there is no room left: who is asked for often is soon back.
func (m *memory) remember(service types.NamespacedName, hosts []host) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.services[service]; ok || len(hosts) == 0 || len(hosts) > maxRemembered {
		return
	}
	if m.count += len(hosts); m.services == nil || m.count > maxRemembered {
		m.services, m.count = map[types.NamespacedName][]host{}, len(hosts)
	}
	m.services[service] = hosts
}

func (m *memory) forget(service types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count -= len(m.services[service])
	delete(m.services, service)
}
