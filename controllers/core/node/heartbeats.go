package node

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// heartbeats remembers when each node was last heard of. It holds an entry per node.
type heartbeats struct {
	clock clock.PassiveClock
	// grace is how long a node may be silent.
	grace time.Duration

	mu sync.Mutex
	// byNode is guarded by mu, as are the times below.
	byNode map[string]beat
	// contact is when the API was last reached; calm is when the last time without it ended, or when this
	// process started.
	contact, calm time.Time
}

type beat struct {
	// renewed is what the Lease said, at when that was first seen here.
	renewed, at time.Time
}

func newHeartbeats(clock clock.PassiveClock, grace time.Duration) *heartbeats {
	now := clock.Now()
	return &heartbeats{clock: clock, grace: grace, byNode: map[string]beat{}, contact: now, calm: now}
}

// observe notes what a node's Lease says.
func (h *heartbeats) observe(node string, renewed time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, found := h.byNode[node]; !found || !known.renewed.Equal(renewed) {
		h.byNode[node] = beat{renewed: renewed, at: h.clock.Now()}
	}
}

// reported notes that a node has been heard of otherwise than by its Lease.
func (h *heartbeats) reported(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.byNode[node]
	known.at = h.clock.Now()
	h.byNode[node] = known
}

// silence returns how long a node may stay silent from now on; zero or less means that it is gone. A node
// that was never heard of is given the whole grace period from the first question on. While the API
// cannot be reached nobody is gone.
func (h *heartbeats) silence(node string) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.Now()
	known, found := h.byNode[node]
	if !found {
		known = beat{at: now}
		h.byNode[node] = known
	}
	since := known.at
	if h.calm.After(since) {
		since = h.calm
	}
	left := since.Add(h.grace).Sub(now)
	if now.Sub(h.contact) > h.patience() {
		left = max(left, h.patience())
	}
	return left
}

// reached notes that the API answers. When it has not for a while, all nodes start anew: their Leases
// could not be renewed, or the renewals not seen.
func (h *heartbeats) reached() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.Now()
	if now.Sub(h.contact) > h.patience() {
		h.calm = now
	}
	h.contact = now
}

// patience is how long the API may be out of reach before that counts: less than what a node's renewals
// have to spare.
func (h *heartbeats) patience() time.Duration { return h.grace / 4 }

// settled is when verdicts of before the last outage may be acted on again.
func (h *heartbeats) settled() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calm.Add(h.grace)
}

func (h *heartbeats) forget(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byNode, node)
}
