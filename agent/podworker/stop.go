package podworker

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/events"

	dcorev1 "drayage.dev/apis/core/v1"

	"drayage.dev/agent"
)

// minimumGrace is what every container gets to end by itself, however short its grace period is and
// however long its preStop hook took; kubelet's.
const minimumGrace = 2 * time.Second

// specGrace is the pod's own grace period.
func (w *worker) specGrace(pod *corev1.Pod) time.Duration {
	if pod == nil || pod.Spec.TerminationGracePeriodSeconds == nil {
		return corev1.DefaultTerminationGracePeriodSeconds * time.Second
	}
	return time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
}

// deletionGrace is what a deleted pod gets: its own, unless the deletion said otherwise. The API server
// writes 0 into every custom resource's deletionGracePeriodSeconds, so that field says nothing.
func (w *worker) deletionGrace(pod *corev1.Pod) time.Duration {
	if pod == nil {
		return minimumGrace
	}
	if text, found := pod.Annotations[dcorev1.DeletionGracePeriodAnnotation]; found {
		if seconds, err := strconv.ParseInt(text, 10, 32); err == nil && seconds >= 0 {
			return time.Duration(seconds) * time.Second
		}
	}
	return w.specGrace(pod)
}

// remaining is the time until a deadline, but at least the minimum.
func (w *worker) remaining(deadline time.Time) time.Duration {
	return max(deadline.Sub(w.manager.Clock.Now()), minimumGrace)
}

// preStop runs a container's hook, for as long as its grace period lasts.
func (w *worker) preStop(ctx context.Context, p *pass, container *corev1.Container, running agent.Container, deadline time.Time) {
	if container.Lifecycle == nil || container.Lifecycle.PreStop == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, max(deadline.Sub(w.manager.Clock.Now()), time.Second))
	defer cancel()
	if text, err := w.manager.hook(ctx, p, container, running.ID, container.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedPreStopHook, "%s", text)
	}
}

// stopOrdered stops what runs of the pod: the app containers and regular init containers together, then
// the sidecars in reverse order. deadline may move closer while it runs; a token on changed makes it look
// again, also at what the readiness probes say. Each container's hook runs once.
func (w *worker) stopOrdered(ctx context.Context, p *pass, deadline func() time.Time, changed <-chan struct{}) error {
	hooked := &sync.Map{}
	for {
		round, cancel := context.WithCancel(ctx)
		finished, end := make(chan struct{}), deadline()
		var outcome error
		go func() {
			defer close(finished)
			outcome = w.stopRound(round, p, end, hooked)
		}()
		again := false
		for !again {
			select {
			case <-finished:
				cancel()
				return outcome
			case <-changed:
				again = deadline().Before(end)
				w.showReadiness(ctx)
			case <-ctx.Done():
				cancel()
				<-finished
				return ctx.Err()
			}
		}
		// What the round could not finish, the next one does.
		cancel()
		<-finished
	}
}

// showReadiness reports the pod when the readiness of a running container is another than was reported last: an
// ending pod serves where nobody else does, but not when it says that it cannot.
func (w *worker) showReadiness(ctx context.Context) {
	pod, gone := w.snapshot()
	if gone || pod == nil {
		return
	}
	p, err := w.observe(ctx, pod)
	if err != nil {
		return // the next change, or the final status, tells
	}
	last := pod.Status
	if w.previous != nil {
		last = *w.previous
	}
	said := map[string]bool{}
	for _, container := range slices.Concat(last.InitContainerStatuses, last.ContainerStatuses) {
		_, id, _ := strings.Cut(container.ContainerID, "://")
		said[id] = container.Ready
	}
	for _, container := range p.state.Containers {
		was, told := said[container.ID]
		if state, watched := w.manager.probes.State(container.ID); told && watched && state.Ready != was {
			w.report(p)
			return
		}
	}
}

// stopRound stops every running container with what is left of the grace period.
func (w *worker) stopRound(ctx context.Context, p *pass, deadline time.Time, hooked *sync.Map) error {
	running := map[string][]agent.Container{}
	for _, container := range p.state.Containers {
		if container.Phase == agent.ContainerRunning {
			running[container.Name] = append(running[container.Name], container)
		}
	}
	var sidecars []corev1.Container
	var others []string
	for i := range p.pod.Spec.InitContainers {
		if podutil.IsRestartableInitContainer(&p.pod.Spec.InitContainers[i]) {
			sidecars = append(sidecars, p.pod.Spec.InitContainers[i])
		}
	}
	isSidecar := func(name string) bool {
		for i := range sidecars {
			if sidecars[i].Name == name {
				return true
			}
		}
		return false
	}
	for name := range running {
		if !isSidecar(name) {
			others = append(others, name)
		}
	}
	if err := w.stopTogether(ctx, p, others, running, deadline, hooked); err != nil {
		return err
	}
	for i := len(sidecars) - 1; i >= 0; i-- {
		if err := w.stopTogether(ctx, p, []string{sidecars[i].Name}, running, deadline, hooked); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) stopTogether(ctx context.Context, p *pass, names []string, running map[string][]agent.Container, deadline time.Time, hooked *sync.Map) error {
	var stops sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	for _, name := range names {
		for _, container := range running[name] {
			stops.Go(func() {
				if spec := kubecontainer.GetContainerSpec(p.pod, name); spec != nil {
					if _, again := hooked.LoadOrStore(container.ID, true); !again {
						w.event(p.pod, spec, corev1.EventTypeNormal, events.KillingContainer, "Stopping container %s", name)
						w.preStop(ctx, p, spec, container, deadline)
					}
				}
				if ctx.Err() != nil {
					return
				}
				if err := w.manager.Containers.Stop(ctx, container.ID, w.remaining(deadline)); err != nil {
					mu.Lock()
					failures = append(failures, err)
					mu.Unlock()
				}
			})
		}
	}
	stops.Wait()
	return errors.Join(failures...)
}
