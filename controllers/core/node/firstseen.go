package node

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// firstSeen remembers when taints appeared that do not say so themselves: those that people add. It holds
// the taints of nodes that have such.
type firstSeen struct {
	mu     sync.Mutex
	byNode map[string]map[string]time.Time
}

func newFirstSeen() *firstSeen { return &firstSeen{byNode: map[string]map[string]time.Time{}} }

// since returns when a taint was added to a node.
func (f *firstSeen) since(node string, taint *corev1.Taint, now time.Time) time.Time {
	if taint.TimeAdded != nil {
		return taint.TimeAdded.Time
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byNode[node] == nil {
		f.byNode[node] = map[string]time.Time{}
	}
	key := taint.Key + "=" + taint.Value
	if _, known := f.byNode[node][key]; !known {
		f.byNode[node][key] = now
	}
	return f.byNode[node][key]
}

func (f *firstSeen) forget(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.byNode, node)
}
