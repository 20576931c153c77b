package pod

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// missing remembers since when nodes have been missing that pods are bound to. Nodes that are back, and
// those that no pod asked for in an hour, are forgotten.
type missing struct {
	clock      clock.PassiveClock
	quarantine time.Duration

	mu    sync.Mutex
	nodes map[string]absence
}

type absence struct{ since, asked time.Time }

const forgetAfter = time.Hour

func newMissing(clock clock.PassiveClock, quarantine time.Duration) *missing {
	return &missing{clock: clock, quarantine: quarantine, nodes: map[string]absence{}}
}

// wait returns how long a missing node must stay missing before it counts as gone; zero or less means
// that it does.
func (m *missing) wait(node string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	known, found := m.nodes[node]
	if !found {
		known.since = now
		for name, other := range m.nodes {
			if now.Sub(other.asked) > forgetAfter {
				delete(m.nodes, name)
			}
		}
	}
	known.asked = now
	m.nodes[node] = known
	return known.since.Add(m.quarantine).Sub(now)
}

func (m *missing) forget(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.nodes, node)
}
