package podobjects

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// item names something whose present state a stream has to look at: a pod, an object or, when both are
// empty, the end of the first list of pods.
type item struct {
	pod    types.UID
	object key
}

// queue is a first-in first-out set: what waits in it waits once, however often it changes meanwhile.
// That bounds a stream's memory by what the node's pods refer to, however slow the node reads.
type queue struct {
	mu      sync.Mutex
	items   []item
	waiting map[item]struct{}
	// wake holds a token while there may be items.
	wake chan struct{}
}

func newQueue() *queue {
	return &queue{waiting: map[item]struct{}{}, wake: make(chan struct{}, 1)}
}

func (q *queue) add(i item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.waiting[i]; ok {
		return
	}
	q.waiting[i] = struct{}{}
	q.items = append(q.items, i)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes the oldest item.
func (q *queue) take() (item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return item{}, false
	}
	i := q.items[0]
	q.items = q.items[1:]
	delete(q.waiting, i)
	return i, true
}
