package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

// How fast nodes that are lost are emptied; upstream's numbers, applied to the cluster as a whole:
//   - while no node at all is healthy, nothing is evicted, and evictions that wait are called off;
//   - while three nodes or more, and 55 % of all, are lost, a cluster of up to 50 nodes evicts nothing
//     more and a larger one empties a node every 100 seconds;
//   - else one node is emptied every 10 seconds.
const (
	usualRate     rate.Limit = 0.1
	secondaryRate rate.Limit = 0.01
	largeCluster             = 50
	manyLost                 = 3
	lostShare                = 0.55
	// throttledRetry is when a lost node is looked at again, about: whether it may be emptied by now, or
	// whether that is called off.
	throttledRetry = 5 * time.Second
	// disruptionAge is how old a count of the lost nodes may be.
	disruptionAge = time.Second
)

// disruption is how much of the cluster is lost.
type disruption struct {
	// rate is how many nodes may be emptied per second.
	rate rate.Limit
	// total says that no node is healthy.
	total bool
}

// disruptionOf judges a cluster by its number of nodes and of those that are lost.
func disruptionOf(nodes, lost int) disruption {
	switch {
	case nodes > 0 && lost == nodes:
		return disruption{total: true}
	case lost >= manyLost && float64(lost) >= lostShare*float64(nodes):
		if nodes > largeCluster {
			return disruption{rate: secondaryRate}
		}
		return disruption{}
	}
	return disruption{rate: usualRate}
}

// disruption counts the lost nodes: those that say so, and those that are not heard of any more, whether
// their status says so yet or not.
func (r *reconciler) disruption(ctx context.Context) (disruption, error) {
	now := r.clock.Now()
	r.throttle.mu.Lock()
	defer r.throttle.mu.Unlock()
	if age := now.Sub(r.throttle.counted); age >= 0 && age < disruptionAge {
		return r.throttle.disruption, nil
	}
	var nodes dcorev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return disruption{}, fmt.Errorf("listing nodes: %w", err)
	}
	lost := 0
	for i := range nodes.Items {
		if readiness(&nodes.Items[i].Status) != corev1.ConditionTrue || r.heartbeats.silence(nodes.Items[i].Name) <= 0 {
			lost++
		}
	}
	r.throttle.disruption, r.throttle.counted = disruptionOf(len(nodes.Items), lost), now
	return r.throttle.disruption, nil
}

// throttle lets nodes be emptied one after the other.
type throttle struct {
	limiter *rate.Limiter

	mu sync.Mutex
	// disruption was counted last, at the time counted; both are guarded by mu.
	disruption disruption
	counted    time.Time
}

func newThrottle() *throttle { return &throttle{limiter: rate.NewLimiter(usualRate, 1)} }

// allow tells whether one more node may be emptied now.
func (t *throttle) allow(now time.Time, d disruption) bool {
	if d.rate == 0 {
		return false
	}
	t.limiter.SetLimitAt(now, d.rate)
	return t.limiter.AllowN(now, 1)
}
