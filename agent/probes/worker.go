package probes

import (
	"context"
	"math/rand"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// eager is how soon the readiness of a container that is not ready is probed again; the pause doubles up
// to the probe's period. Upstream, too, probes such a container at other times than the period says, so
// that it becomes ready sooner. These tries publish no events.
const eager = 100 * time.Millisecond

// worker runs one probe of one container.
type worker struct {
	manager   *Manager
	container *container
	kind      Kind
	spec      *corev1.Probe

	// last is the last result, streak how often it came in a row.
	last   bool
	streak int
}

// run probes until the context ends, or until a startup or liveness probe has said what it had to say:
// the next container then has workers of its own.
func (w *worker) run(ctx context.Context) {
	clock := w.manager.config.Clock
	period := time.Duration(w.spec.PeriodSeconds) * time.Second
	if w.kind != Startup {
		select {
		case <-ctx.Done():
			return
		case <-w.container.started:
		}
	}
	due := w.container.target.StartedAt.Add(time.Duration(w.spec.InitialDelaySeconds) * time.Second)
	if now := clock.Now(); due.Before(now) {
		due = now
	}
	if w.container.target.Restored {
		// Many containers are restored at once: not all of them shall be probed at once.
		due = due.Add(time.Duration(rand.Float64() * float64(period)))
	}
	next, pause := due, eager // next is the coming probe, due the coming one of the period
	for {
		if !w.sleepUntil(ctx, next) {
			return
		}
		regular := !next.Before(due)
		healthy, known := w.manager.prober.probe(ctx, w.kind, w.spec, &w.container.target, regular)
		if ctx.Err() != nil {
			return
		}
		if known && w.settled(healthy) {
			w.manager.settle(ctx, w, healthy)
			if w.kind == Startup || w.kind == Liveness && !healthy {
				return
			}
		}
		now := clock.Now()
		if regular {
			due = due.Add(period)
		}
		for due.Before(now) { // a slow probe skips what it has missed
			due = due.Add(period)
		}
		next = due
		if healthy {
			pause = eager
		}
		if w.kind == Readiness && !healthy && pause < period && !w.wasReady() {
			if early := now.Add(pause); early.Before(due) {
				next = early
			}
			pause *= 2
		}
	}
}

// settled counts a result; true means that it has come often enough in a row to hold.
func (w *worker) settled(healthy bool) bool {
	if w.streak == 0 || w.last != healthy {
		w.last, w.streak = healthy, 0
	}
	w.streak++
	threshold := w.spec.FailureThreshold
	if healthy {
		threshold = w.spec.SuccessThreshold
	}
	return w.streak >= int(threshold)
}

func (w *worker) wasReady() bool {
	state, _ := w.manager.State(w.container.target.ContainerID)
	return state.Ready
}

func (w *worker) sleepUntil(ctx context.Context, when time.Time) bool {
	pause := when.Sub(w.manager.config.Clock.Now())
	if pause <= 0 {
		return ctx.Err() == nil
	}
	timer := w.manager.config.Clock.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}
