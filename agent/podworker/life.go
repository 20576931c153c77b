package podworker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"drayage.dev/agent"
	"drayage.dev/agent/resources"
	"drayage.dev/agent/status"
)

// step is one idempotent part of a pod's life. An error ends the pass; it is tried again after a wait.
type step struct {
	name string
	run  func(*worker, context.Context, *pass) error
}

// steps is the order in which a pod comes to life. A pass takes them all, each time.
var steps = []step{
	{"admission", (*worker).admit},
	{"deadline", (*worker).checkDeadline},
	{"directories", (*worker).makeDirectories},
	{"cgroup", (*worker).makeCgroup},
	{"volumes", (*worker).mountVolumes},
	{"containers", (*worker).runContainers},
	{"dead containers", (*worker).deleteDead},
}

// live takes the steps until one fails or the pod's end is decided.
func (w *worker) live(ctx context.Context, p *pass) error {
	interruptible, interrupt := context.WithCancel(ctx)
	defer interrupt()
	w.mu.Lock()
	w.interrupt = interrupt
	late := w.gone || w.pod.DeletionTimestamp != nil
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.interrupt = nil
		w.mu.Unlock()
	}()
	if late {
		return nil
	}
	for _, step := range steps {
		if err := step.run(w, interruptible, p); err != nil {
			if interruptible.Err() != nil {
				return nil
			}
			if errors.Is(err, errHeld) {
				return nil
			}
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if w.ended {
			return nil
		}
	}
	return nil
}

// admit decides once whether the pod may run here. One that has been started stays, whatever has changed.
func (w *worker) admit(_ context.Context, p *pass) error {
	if w.admitted || len(p.state.Sandboxes) > 0 || p.pod.Status.StartTime != nil {
		w.admitted = true
		w.mu.Lock()
		w.settled = true
		w.mu.Unlock()
		return nil
	}
	w.verdict = w.manager.admit(w, p.pod)
	if w.verdict != nil {
		w.ended = true
		w.event(p.pod, nil, corev1.EventTypeWarning, w.verdict.Reason, "%s", w.verdict.Message)
		return nil
	}
	w.admitted = true
	// What a user sees while images are pulled.
	w.report(p)
	return nil
}

// checkDeadline fails a pod that has been active for longer than it may.
func (w *worker) checkDeadline(_ context.Context, p *pass) error {
	if p.pod.Spec.ActiveDeadlineSeconds == nil || w.previous == nil && p.pod.Status.StartTime == nil {
		return nil
	}
	start := p.pod.Status.StartTime
	if start == nil {
		start = w.previous.StartTime
	}
	deadline := start.Add(time.Duration(*p.pod.Spec.ActiveDeadlineSeconds) * time.Second)
	if w.manager.Clock.Now().Before(deadline) {
		p.wakeAt(deadline)
		return nil
	}
	w.verdict = &status.Verdict{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	w.ended = true
	w.event(p.pod, nil, corev1.EventTypeNormal, "DeadlineExceeded", "%s", w.verdict.Message)
	return nil
}

func (w *worker) makeDirectories(_ context.Context, p *pass) error {
	for _, dir := range []string{w.manager.podDir(w.uid), w.manager.logDir(p.pod.Namespace, p.pod.Name, w.uid)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) makeCgroup(_ context.Context, p *pass) error {
	if len(p.state.Sandboxes) > 0 && p.state.Sandboxes[0].Ready {
		return nil
	}
	path := resources.CgroupParent(w.manager.CgroupRoot, p.pod)
	if err := w.manager.Cgroups.Create(path); err != nil {
		return err
	}
	return w.manager.Cgroups.Limit(path, resources.PodOf(p.pod))
}

// mountVolumes mounts once, and then keeps what follows objects up to date.
func (w *worker) mountVolumes(ctx context.Context, p *pass) error {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	w.mu.Lock()
	dirty := w.dirty
	w.dirty = false
	w.mu.Unlock()
	now := w.manager.Clock.Now()
	if dirty {
		w.hold.lift()
	}
	if w.mounted == nil {
		if at, held := w.hold.until("volumes", now); held {
			p.wakeAt(at)
			return errHeld
		}
	}
	due := !w.refreshAt.IsZero() && !now.Before(w.refreshAt)
	if w.mounted == nil {
		mounted, err := w.manager.Volumes.Mount(ctx, p.pod)
		if err != nil {
			w.event(p.pod, nil, corev1.EventTypeWarning, events.FailedMountVolume, "%s", err)
			p.wakeAt(w.hold.failed("volumes", now, time.Time{}))
			return errors.Join(errHeld, err)
		}
		w.hold.over("volumes")
		w.mounted, p.volumes, due = mounted, mounted, true
	}
	if dirty || due {
		next, err := w.manager.Volumes.Refresh(ctx, p.pod)
		if err != nil {
			// The old contents stay; the pod goes on.
			w.event(p.pod, nil, corev1.EventTypeWarning, events.FailedMountVolume, "%s", err)
			next = now.Add(retryMost)
		}
		w.refreshAt = next
	}
	if !w.refreshAt.IsZero() {
		p.wakeAt(w.refreshAt)
	}
	return nil
}

// runContainers brings sandbox and containers to what the plan says. A plan is made anew after each thing
// that changes its ground.
func (w *worker) runContainers(ctx context.Context, p *pass) error {
	w.watchRunning(p)
	for range 3 {
		next := decide(w.situation(p))
		switch {
		case next.done:
			w.ended = true
			return nil
		case next.sandbox:
			if err := w.makeSandbox(ctx, p); err != nil {
				return err
			}
			if err := p.look(ctx); err != nil {
				return err
			}
			w.report(p)
			continue
		}
		if err := w.stopUnwell(ctx, p, next.stop); err != nil {
			return err
		}
		started, err := w.startContainers(ctx, p, next.start)
		if err != nil || !started {
			return err
		}
		if err := p.look(ctx); err != nil {
			return err
		}
		w.report(p)
	}
	// More init containers may be due at once.
	w.nudge()
	return nil
}

func (w *worker) situation(p *pass) situation {
	w.mu.Lock()
	failed := w.failed
	w.mu.Unlock()
	return situation{pod: p.pod, state: p.state, failed: failed, started: func(id string) bool {
		state, watched := w.manager.probes.State(id)
		return w.hooked[id] && watched && state.Started
	}}
}

// makeSandbox makes the pod's sandbox, with its network. It is not interrupted half-way: what is being
// made would be found by nobody.
func (w *worker) makeSandbox(ctx context.Context, p *pass) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	now := w.manager.Clock.Now()
	if at, held := w.hold.until("sandbox", now); held {
		p.wakeAt(at)
		return errHeld
	}
	err := w.prepareSandbox(ctx, p)
	if err != nil {
		w.event(p.pod, nil, corev1.EventTypeWarning, events.FailedCreatePodSandBox, "Failed to create pod sandbox: %s", err)
		p.wakeAt(w.hold.failed("sandbox", now, time.Time{}))
		return errors.Join(errHeld, err)
	}
	w.hold.over("sandbox")
	return nil
}

func (w *worker) prepareSandbox(ctx context.Context, p *pass) error {
	config, err := w.sandboxConfig(ctx, p.pod)
	if err != nil {
		return err
	}
	if len(p.state.Sandboxes) > 0 {
		w.event(p.pod, nil, corev1.EventTypeNormal, events.SandboxChanged, "Pod sandbox changed, it will be killed and re-created.")
		if err := w.makeCgroupAgain(ctx, p); err != nil {
			return err
		}
	}
	_, err = w.manager.Runtime.Prepare(context.WithoutCancel(ctx), &agent.PodPlan{Config: config})
	return err
}

// makeCgroupAgain halts what is left of a dead sandbox, which takes the pod's cgroup with it.
func (w *worker) makeCgroupAgain(ctx context.Context, p *pass) error {
	if err := w.manager.Runtime.Halt(context.WithoutCancel(ctx), w.uid); err != nil {
		return err
	}
	path := resources.CgroupParent(w.manager.CgroupRoot, p.pod)
	if err := w.manager.Cgroups.Create(path); err != nil {
		return err
	}
	return w.manager.Cgroups.Limit(path, resources.PodOf(p.pod))
}

// retire gives back what a pod that has completed does not need: processes, network, volumes. Its records
// and logs stay until it is deleted.
func (w *worker) retire(ctx context.Context, p *pass) error {
	if w.retired {
		return nil
	}
	clear(w.waiting)
	grace := w.specGrace(p.pod)
	if err := w.stopOrdered(ctx, p, func() time.Time { return w.manager.Clock.Now().Add(grace) }, nil); err != nil {
		return err
	}
	if err := w.manager.Runtime.Halt(ctx, w.uid); err != nil {
		return err
	}
	if err := w.manager.Volumes.Unmount(ctx, w.uid); err != nil {
		return err
	}
	if err := w.manager.detach(ctx, p.state); err != nil {
		return err
	}
	w.retired = true
	return p.look(ctx)
}
