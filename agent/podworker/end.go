package podworker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent"
	"drayage.dev/agent/metrics"
	dcorev1 "drayage.dev/apis/core/v1"
)

// ending is how far the pod's end has come.
type ending struct {
	since time.Time
	// resumed says that an earlier agent began it: hooks have run.
	resumed bool
	// pass is what was seen when nothing ran any more; the final status is made of it.
	pass *pass
	next int
}

// endStep is one idempotent part of a pod's end.
type endStep struct {
	name string
	run  func(*worker, context.Context, *pass) error
}

// endSteps is the order in which a pod goes: out of the proxies, then its processes, then what they used,
// and only then the finalizer, which lets the object go.
var endSteps = []endStep{
	{"withdrawing", (*worker).withdraw},
	{"stopping containers", (*worker).stopContainers},
	{"writing final status", (*worker).writeFinalStatus},
	{"removing sandbox", (*worker).removeSandbox},
	{"unmounting volumes", (*worker).unmountVolumes},
	{"removing directories", (*worker).removeDirectories},
	{"removing finalizer", (*worker).removeFinalizer},
}

// end takes the pod apart. It returns true when nothing of it is left, here and, as far as it is the
// agent's to say, in the API.
func (w *worker) end(ctx context.Context, pod *corev1.Pod, gone bool) (finished bool, err error) {
	if pod == nil {
		pod = &corev1.Pod{}
		pod.UID = w.uid
	}
	p, err := w.observe(ctx, pod)
	if err != nil {
		return false, err
	}
	if pod.Name == "" {
		pod.Namespace, pod.Name = p.state.Namespace, p.state.Name
	}
	if w.ending == nil {
		w.ending = w.beginEnding(gone)
		w.manager.probes.Terminating(w.uid)
		if !gone {
			w.watchRunning(p)
			w.manager.statuses.Touch(w.uid)
		}
	}
	for ; w.ending.next < len(endSteps); w.ending.next++ {
		step := endSteps[w.ending.next]
		if err := step.run(w, ctx, p); err != nil {
			return false, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return true, nil
}

// beginEnding notes on disk when the end began, so that the next agent goes on with the same deadline.
func (w *worker) beginEnding(gone bool) *ending {
	began := &ending{since: w.manager.Clock.Now()}
	if gone {
		return began
	}
	path := filepath.Join(w.manager.podDir(w.uid), "ending")
	if text, err := os.ReadFile(path); err == nil {
		if since, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text))); err == nil {
			began.since, began.resumed = since, true
		}
		return began
	}
	// A pod that has no directory has no container either.
	_ = os.WriteFile(path, []byte(began.since.Format(time.RFC3339Nano)+"\n"), 0o644)
	return began
}

// withdraw waits until no proxy sends new connections to the pod, or the bound is over. An agent that was
// restarted meanwhile waits again: this node's own proxy may not have heard, and the one before may have waited
// for a moment only.
func (w *worker) withdraw(ctx context.Context, p *pass) error {
	running := slices.ContainsFunc(p.state.Containers, func(c agent.Container) bool { return c.Phase == agent.ContainerRunning })
	pod, gone := w.snapshot()
	if gone || !running || w.manager.Withdrawal == nil {
		return nil
	}
	left := w.ending.since.Add(w.deletionGrace(pod)).Sub(w.manager.Clock.Now())
	bounded, cancel := context.WithTimeout(ctx, min(w.manager.WithdrawalBound, left))
	defer cancel()
	start := time.Now()
	err := w.manager.Withdrawal.Await(bounded, w.uid)
	if ctx.Err() != nil {
		// The agent ends; the next one goes on.
		return ctx.Err()
	}
	metrics.Withdrawn(err == nil, time.Since(start))
	if err != nil {
		// An expired bound is not a failure: the pod has waited long enough.
		logr.FromContextOrDiscard(ctx).Info("Some node may send the ending pod new connections still, going on", "uid", w.uid, "err", err.Error())
	}
	return nil
}

// stopContainers ends the pod's processes within its grace period, which a user may shorten on the way.
func (w *worker) stopContainers(ctx context.Context, p *pass) error {
	deadline := func() time.Time {
		pod, gone := w.snapshot()
		if gone {
			return w.ending.since.Add(minimumGrace)
		}
		return w.ending.since.Add(w.deletionGrace(pod))
	}
	if err := w.stopOrdered(ctx, p, deadline, w.wake); err != nil {
		return err
	}
	if err := p.look(ctx); err != nil {
		return err
	}
	w.ending.pass = p
	return nil
}

// writeFinalStatus tells how the containers ended, before the runtime forgets them. Whoever waits for the
// pod (a Job, a user) reads it from the object's last version.
func (w *worker) writeFinalStatus(ctx context.Context, _ *pass) error {
	pod, gone := w.snapshot()
	if gone || pod.Status.StartTime == nil && w.previous == nil {
		return nil
	}
	w.ended = true
	clear(w.waiting)
	w.ending.pass.pod = pod
	w.report(w.ending.pass)
	return w.manager.statuses.Flush(ctx, w.uid)
}

func (w *worker) removeSandbox(ctx context.Context, p *pass) error {
	if err := w.manager.Runtime.Remove(ctx, w.uid); err != nil {
		return err
	}
	for _, container := range p.state.Containers {
		w.manager.probes.Forget(container.ID)
	}
	return w.manager.detach(ctx, p.state)
}

func (w *worker) unmountVolumes(ctx context.Context, _ *pass) error {
	if err := w.manager.Cgroups.RemovePod(ctx, w.uid); err != nil {
		return err
	}
	return w.manager.Volumes.Unmount(ctx, w.uid)
}

// removeDirectories removes the pod's directory and its logs. Nothing may be mounted below any more: a
// directory that is a mount point is an error, so that nobody's data is deleted through it.
func (w *worker) removeDirectories(_ context.Context, _ *pass) error {
	mounted, err := mountedBelow(w.manager.podDir(w.uid))
	if err != nil {
		return err
	}
	if len(mounted) > 0 {
		return fmt.Errorf("something is mounted at %s still", mounted[0])
	}
	logs, err := filepath.Glob(filepath.Join(w.manager.LogsDir, "*_"+string(w.uid)))
	if err != nil {
		return err
	}
	for _, dir := range append(logs, w.manager.podDir(w.uid)) {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removeFinalizer lets the object go. The patch carries the resource version, since it replaces a list.
func (w *worker) removeFinalizer(ctx context.Context, _ *pass) error {
	if _, gone := w.snapshot(); gone {
		return nil
	}
	for range 5 {
		pod := w.manager.statuses.Latest(w.uid)
		if pod == nil || !slices.Contains(pod.Finalizers, dcorev1.NodeFinalizer) {
			return nil
		}
		kept := pod.DeepCopy()
		kept.Finalizers = slices.DeleteFunc(kept.Finalizers, func(f string) bool { return f == dcorev1.NodeFinalizer })
		bounded, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := w.manager.Client.Patch(bounded, kept, client.MergeFromWithOptions(pod, client.MergeFromWithOptimisticLock{}))
		if apierrors.IsConflict(err) {
			live := &dcorev1.Pod{}
			if err = w.manager.Client.Get(bounded, client.ObjectKeyFromObject(pod), live); err == nil {
				if live.UID != w.uid {
					cancel()
					return nil
				}
				w.manager.statuses.Observe(live)
				cancel()
				continue
			}
		}
		cancel()
		return client.IgnoreNotFound(err)
	}
	return errors.New("others keep changing the pod")
}
