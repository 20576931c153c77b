package podworker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/agent"
	"drayage.dev/agent/metrics"
	"drayage.dev/agent/probes"
	"drayage.dev/agent/status"
	"drayage.dev/agent/volumes"
)

const (
	// retryFirst and retryMost are the waits after a step that failed, doubling.
	retryFirst = 500 * time.Millisecond
	retryMost  = 15 * time.Second
	// resync is how often a pod is looked at although nothing was heard of it.
	resync = time.Minute
	// callBound bounds what a step does beside calling the runtime.
	callBound = 2 * time.Minute
)

// worker drives one pod. Its goroutine alone runs steps; everyone else leaves a note and wakes it.
type worker struct {
	manager *Manager
	uid     types.UID
	// seen is when the agent first heard of the pod.
	seen time.Time
	// wake holds a token when there is news.
	wake chan struct{}

	mu sync.Mutex
	// pod is the newest version from the API; nil for what is only known to the runtime or the disk.
	pod *corev1.Pod
	// gone says that the API does not know the pod (any more).
	gone bool
	// latest is the status that was generated last, for those who ask.
	latest *corev1.PodStatus
	// settled says that the pod was admitted and takes room.
	settled bool
	// dirty says that volumes may be out of date.
	dirty bool
	// failed holds the containers that a probe wants restarted, by id.
	failed map[string]probes.Change
	// interrupt ends what the current pass waits for when the pod has to end.
	interrupt context.CancelFunc

	// What follows belongs to the goroutine.

	// admitted says that the pod may run here; verdict, when set, that it must fail.
	admitted bool
	verdict  *status.Verdict
	// ended says that nothing will be started again; retired, that its resources have been given back.
	ended, retired bool
	// previous is the last status that was generated.
	previous *corev1.PodStatus
	// waiting says why containers cannot be started at this moment, by name.
	waiting map[string]corev1.ContainerStateWaiting
	// mounted are the pod's volumes once they are; refreshAt is when tokens want renewal.
	mounted   map[string]volumes.Volume
	refreshAt time.Time
	// hooked are the running containers whose postStart hook is through (or that have none), by id.
	hooked map[string]bool
	// hold keeps what has failed from being tried again at once; said is the end of a container that its
	// back-off was announced for, by name.
	hold holdOff
	said map[string]time.Time
	// retries counts failed passes in a row.
	retries int
	ending  *ending
}

func newWorker(m *Manager, uid types.UID) *worker {
	return &worker{
		manager: m, uid: uid, seen: m.Clock.Now(), wake: make(chan struct{}, 1), failed: map[string]probes.Change{},
		waiting: map[string]corev1.ContainerStateWaiting{}, hooked: map[string]bool{}, dirty: true,
		hold: holdOff{}, said: map[string]time.Time{},
	}
}

// nudge wakes the worker; many nudges make one pass.
func (w *worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// update leaves a newer version of the pod.
func (w *worker) update(pod *corev1.Pod) {
	w.mu.Lock()
	if old := w.pod; old == nil || !maps.Equal(old.Labels, pod.Labels) || !maps.Equal(old.Annotations, pod.Annotations) {
		w.dirty = true
	}
	w.pod = pod
	if pod.DeletionTimestamp != nil && w.interrupt != nil {
		w.interrupt()
	}
	w.mu.Unlock()
	w.nudge()
}

// vanish notes that the API does not know the pod any more.
func (w *worker) vanish() {
	w.mu.Lock()
	w.gone = true
	if w.interrupt != nil {
		w.interrupt()
	}
	w.mu.Unlock()
	w.nudge()
}

// probed leaves a probe's finding.
func (w *worker) probed(change probes.Change) {
	if change.Failed != "" {
		w.mu.Lock()
		w.failed[change.ContainerID] = change
		w.mu.Unlock()
	}
	w.nudge()
}

func (w *worker) stale() {
	w.mu.Lock()
	w.dirty = true
	w.mu.Unlock()
	w.nudge()
}

// snapshot returns the pod and whether it has to end.
func (w *worker) snapshot() (pod *corev1.Pod, gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod, w.gone
}

// shown returns the pod and the status that was generated last, if any.
func (w *worker) shown() (*corev1.Pod, *corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod, w.latest
}

// run takes passes until nothing of the pod is left, or ctx ends.
func (w *worker) run(ctx context.Context) {
	for {
		again, finished := w.turn(ctx)
		if finished {
			return
		}
		timer := w.manager.Clock.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.wake:
			timer.Stop()
		case <-timer.C():
		}
	}
}

// turn takes one pass. It returns when to take the next, unless something happens before.
func (w *worker) turn(ctx context.Context) (again time.Duration, finished bool) {
	pod, gone := w.snapshot()
	operation := metrics.Sync
	defer func(start time.Time) { metrics.Worked(operation, start) }(time.Now())
	if gone || pod.DeletionTimestamp != nil {
		operation = metrics.Kill
		finished, err := w.end(ctx, pod, gone)
		return w.after(ctx, resync, err), finished
	}
	p, err := w.observe(ctx, pod)
	if err != nil {
		return w.after(ctx, resync, err), false
	}
	if completed(pod.Status.Phase) && !w.ended {
		w.ended = true
	}
	if !w.ended {
		err = w.live(ctx, p)
	}
	if w.ended && err == nil {
		err = w.retire(ctx, p)
	}
	w.report(p)
	return w.after(ctx, p.next(w.manager.Clock.Now()), err), false
}

// after returns the wait before the next pass: sooner after a failure, and each time a little less soon.
func (w *worker) after(ctx context.Context, regular time.Duration, err error) time.Duration {
	if err == nil || ctx.Err() != nil {
		w.retries = 0
		return regular
	}
	wait := min(retryFirst<<min(w.retries, 10), retryMost)
	w.retries++
	logr.FromContextOrDiscard(ctx).Info("Pod step failed, trying again", "uid", w.uid, "after", wait.String(), "err", err.Error())
	return min(wait, regular)
}

// errHeld ends a pass quietly: the user has been told already, in a container's state or an event, and the
// pass knows when to try again.
var errHeld = errors.New("held off")

func completed(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// pass is what one turn of a worker knows.
type pass struct {
	worker *worker
	pod    *corev1.Pod
	state  agent.PodState
	// volumes are the pod's, once they are mounted.
	volumes map[string]volumes.Volume
	wakes   []time.Time
}

// observe looks at what the runtime has of the pod.
func (w *worker) observe(ctx context.Context, pod *corev1.Pod) (*pass, error) {
	p := &pass{worker: w, pod: pod, volumes: w.mounted}
	return p, p.look(ctx)
}

// look refreshes the pass's view of the runtime and drops what concerns containers that do not run.
func (p *pass) look(ctx context.Context) error {
	w := p.worker
	states, err := w.manager.Runtime.List(ctx, w.uid)
	if err != nil {
		return err
	}
	p.state = agent.PodState{UID: w.uid}
	if len(states) > 0 {
		p.state = states[0]
	}
	running := map[string]bool{}
	for _, container := range p.state.Containers {
		if container.Phase == agent.ContainerRunning {
			running[container.ID] = true
		}
	}
	for id := range w.hooked {
		if !running[id] {
			delete(w.hooked, id)
			w.manager.probes.Forget(id)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.failed, func(id string, _ probes.Change) bool { return !running[id] })
	return nil
}

// wakeAt asks for a pass at a time.
func (p *pass) wakeAt(at time.Time) { p.wakes = append(p.wakes, at) }

func (p *pass) next(now time.Time) time.Duration {
	wait := resync
	for _, at := range p.wakes {
		wait = min(wait, max(at.Sub(now), time.Millisecond))
	}
	return wait
}

// podIPs are the pod's addresses as texts, the primary one first.
func (p *pass) podIPs() []string {
	if p.pod.Spec.HostNetwork {
		return p.worker.manager.hostIPs()
	}
	var texts []string
	if len(p.state.Sandboxes) > 0 {
		for _, address := range p.state.Sandboxes[0].Addresses {
			texts = append(texts, address.String())
		}
	}
	return texts
}

// report generates the pod's status from what the pass knows and asks for it to be written.
func (w *worker) report(p *pass) {
	generated := status.Generate(status.Observed{
		Pod: p.pod, Previous: w.previous, Runtime: p.state, Waiting: w.waiting, HostIPs: w.manager.HostIPs,
		Ended: w.ended, Verdict: w.verdict, Now: w.manager.Clock.Now(), TerminationMessage: w.terminationMessage,
		Probed: func(id string) (bool, bool) {
			if !w.hooked[id] {
				return false, false
			}
			state, _ := w.manager.probes.State(id)
			return state.Started, state.Ready
		},
	})
	if w.previous != nil && w.previous.Phase == corev1.PodPending && generated.Phase == corev1.PodRunning {
		metrics.Started(w.manager.Clock.Now().Sub(w.seen))
	}
	w.previous = &generated
	w.mu.Lock()
	w.latest = &generated
	w.mu.Unlock()
	w.manager.statuses.Set(w.uid, generated)
}

// event publishes an event about the pod, or one of its containers.
func (w *worker) event(pod *corev1.Pod, container *corev1.Container, eventType, reason, format string, args ...any) {
	w.manager.Recorder.Event(Ref(pod, container), eventType, reason, fmt.Sprintf(format, args...))
}
