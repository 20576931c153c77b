package podworker

import "time"

// holdOff keeps a pass from trying again at once what has just failed: passes come with every change of
// the pod, and a failure's own status is one. Each failure in a row is waited for longer. It belongs to
// the worker's goroutine.
type holdOff map[string]held

type held struct {
	count int
	until time.Time
}

// until returns when to try again, and whether that is still to come.
func (h holdOff) until(what string, now time.Time) (time.Time, bool) {
	at := h[what].until
	return at, now.Before(at)
}

// failed notes a failure; atLeast, when set, is when trying again can help at the earliest.
func (h holdOff) failed(what string, now, atLeast time.Time) time.Time {
	entry := h[what]
	entry.until = now.Add(min(retryFirst<<min(entry.count, 10), retryMost))
	if atLeast.After(entry.until) {
		entry.until = atLeast
	}
	entry.count++
	h[what] = entry
	return entry.until
}

// over forgets a failure.
func (h holdOff) over(what string) { delete(h, what) }

// lift lets everything be tried at once, since what it failed for may have changed. The counts stay.
func (h holdOff) lift() {
	for what, entry := range h {
		entry.until = time.Time{}
		h[what] = entry
	}
}
