package scheduler

import (
	"context"
	"sync"

	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// maxBindings is how many bindings are under way before the next decision waits. Decisions are much faster than
// an API server takes writes. Without a bound a burst opens a connection per pod, the API server works on
// thousands of requests at once, and an important pod that comes meanwhile stands behind them all. One HTTP/2
// connection carries this many; at 5 ms a write they make 6,000 a second.
const maxBindings = 32

// manyBindings is from how many on events wait for bindings.
const manyBindings = maxBindings / 2

// pace holds decisions back while the API server has enough to write, and events while it has much.
type pace struct {
	mu sync.Mutex
	// changed tells the one who decides that a binding has ended; spare tells those who write events that few are left.
	changed, spare  *sync.Cond
	writing, events int
	ended           bool
}

// newPace returns a pace that holds nothing back any more once ctx ends.
func newPace(ctx context.Context) *pace {
	p := &pace{}
	p.changed, p.spare = sync.NewCond(&p.mu), sync.NewCond(&p.mu)
	context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended = true
		p.changed.Broadcast()
		p.spare.Broadcast()
	})
	return p
}

// before waits until one more binding may be decided on, then calls next.
func (p *pace) before(next func(klog.Logger) (*framework.QueuedPodInfo, error)) func(klog.Logger) (*framework.QueuedPodInfo, error) {
	return func(logger klog.Logger) (*framework.QueuedPodInfo, error) {
		p.mu.Lock()
		for p.writing >= maxBindings && !p.ended {
			p.changed.Wait()
		}
		p.mu.Unlock()
		return next(logger)
	}
}

// write notes that a binding begins; the returned function, that it has ended.
func (p *pace) write() (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing++
	bindingsInFlight.Inc()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.writing--
		bindingsInFlight.Dec()
		p.changed.Signal()
		if p.writing < manyBindings {
			p.spare.Broadcast()
		}
	}
}

// writeEvent waits until few bindings are under way, or no other event is; the returned function notes that it is written.
func (p *pace) writeEvent() (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.writing >= manyBindings && p.events > 0 && !p.ended {
		p.spare.Wait()
	}
	p.events++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events--
		p.spare.Signal()
	}
}
