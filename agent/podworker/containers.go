package podworker

import (
	"context"
	"errors"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"drayage.dev/agent"
	"drayage.dev/agent/probes"
	"drayage.dev/agent/status"
)

// Reasons of waiting containers, as kubelet's.
const (
	reasonCrashLoop = status.CrashLoopBackOff
	reasonConfig    = "CreateContainerConfigError"
	reasonCreate    = "CreateContainerError"
	reasonRun       = "RunContainerError"
	reasonPostStart = "PostStartHookError"
)

// watchRunning has the probes of every running container watched, also of those that an earlier agent
// started: these keep what was last said of them until a probe says otherwise.
func (w *worker) watchRunning(p *pass) {
	for _, running := range p.state.Containers {
		if running.Phase != agent.ContainerRunning || w.hooked[running.ID] {
			continue
		}
		container := kubecontainer.GetContainerSpec(p.pod, running.Name)
		if container == nil {
			continue
		}
		was := probes.State{}
		for _, old := range append(append([]corev1.ContainerStatus{}, p.pod.Status.InitContainerStatuses...), p.pod.Status.ContainerStatuses...) {
			if old.Name == running.Name && old.State.Running != nil {
				was = probes.State{Started: old.Started != nil && *old.Started, Ready: old.Ready}
			}
		}
		w.watch(p, container, running, true, was)
	}
}

// watch starts the probes of a running container whose postStart hook is through.
func (w *worker) watch(p *pass, container *corev1.Container, running agent.Container, restored bool, was probes.State) {
	target := probes.Target{
		Pod: p.pod, Container: container, ContainerID: running.ID, StartedAt: running.StartedAt, Restored: restored, Was: was,
	}
	if ips := p.podIPs(); len(ips) > 0 {
		target.PodIP = ips[0]
	}
	w.hooked[running.ID] = true
	w.manager.probes.Watch(target)
}

// stopUnwell stops containers that a probe or a changed spec wants anew.
func (w *worker) stopUnwell(ctx context.Context, p *pass, intents []stopIntent) error {
	for _, intent := range intents {
		container := kubecontainer.GetContainerSpec(p.pod, intent.container.Name)
		if container == nil {
			continue
		}
		grace := w.specGrace(p.pod)
		if intent.grace != nil {
			grace = time.Duration(*intent.grace) * time.Second
		}
		w.event(p.pod, container, corev1.EventTypeNormal, events.KillingContainer, "%s, will be restarted", intent.message)
		deadline := w.manager.Clock.Now().Add(grace)
		w.preStop(ctx, p, container, intent.container, deadline)
		if err := w.manager.Containers.Stop(ctx, intent.container.ID, w.remaining(deadline)); err != nil {
			return err
		}
	}
	if len(intents) == 0 {
		return nil
	}
	return p.look(ctx)
}

// startContainers starts each container whose turn it is. started says that at least one was; one that
// cannot be started does not keep the others from it, but holds back those that depend on it.
func (w *worker) startContainers(ctx context.Context, p *pass, containers []*corev1.Container) (started bool, err error) {
	before := maps.Clone(w.waiting)
	clear(w.waiting)
	var failures []error
	for _, container := range containers {
		if ctx.Err() != nil {
			return started, ctx.Err()
		}
		if w.inBackoff(p, container) {
			continue
		}
		if at, held := w.hold.until(container.Name, w.manager.Clock.Now()); held {
			p.wakeAt(at)
			if waiting, known := before[container.Name]; known {
				w.waiting[container.Name] = waiting
			}
			continue
		}
		switch err := w.startContainer(ctx, p, container, before[container.Name]); {
		case err == nil:
			w.hold.over(container.Name)
			started = true
		case !errors.Is(err, errHeld):
			failures = append(failures, err)
		}
	}
	return started, errors.Join(failures...)
}

// inBackoff holds a container back that has ended shortly before, and longer each time.
func (w *worker) inBackoff(p *pass, container *corev1.Container) bool {
	last := situation{pod: p.pod, state: p.state}.newest(container.Name)
	if last == nil || last.Phase != agent.ContainerExited {
		return false
	}
	key := string(w.uid) + "_" + container.Name + "_" + hashOf(container)
	backoff := w.manager.backoff
	if backoff.IsInBackOffSince(key, last.FinishedAt) {
		wait := backoff.Get(key)
		p.wakeAt(last.FinishedAt.Add(wait))
		message := "back-off " + wait.String() + " restarting failed container=" + container.Name + " pod=" + kubePod(p.pod)
		w.waiting[container.Name] = corev1.ContainerStateWaiting{Reason: reasonCrashLoop, Message: message}
		if !w.said[container.Name].Equal(last.FinishedAt) {
			w.said[container.Name] = last.FinishedAt
			w.event(p.pod, container, corev1.EventTypeWarning, events.BackOffStartContainer,
				"Back-off restarting failed container %s in pod %s", container.Name, kubePod(p.pod))
		}
		return true
	}
	backoff.Next(key, last.FinishedAt)
	return false
}

// kubePod is how kubelet's messages name a pod.
func kubePod(pod *corev1.Pod) string {
	return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")"
}

// wait notes why a container cannot be started, for the status, and when to try again: at retry, when set,
// or a little later each time.
func (w *worker) wait(p *pass, container *corev1.Container, reason, message string, retry time.Time) error {
	w.waiting[container.Name] = corev1.ContainerStateWaiting{Reason: reason, Message: message}
	p.wakeAt(w.hold.failed(container.Name, w.manager.Clock.Now(), retry))
	return errHeld
}

// startContainer takes one container from its image to its postStart hook.
func (w *worker) startContainer(ctx context.Context, p *pass, container *corev1.Container, before corev1.ContainerStateWaiting) error {
	sandbox, err := w.sandboxConfig(ctx, p.pod)
	if err != nil {
		return err
	}
	image, err := w.manager.Images.Ensure(ctx, agent.ImageRequest{Pod: p.pod, Container: container, Secrets: w.pullSecrets(ctx, p.pod), Sandbox: sandbox})
	if err != nil {
		var failure *agent.ImageError
		if !errors.As(err, &failure) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedToCreateContainer, "Error: %s", failure.Reason)
		retry := failure.Retry
		if before.Reason != failure.Reason {
			// Soon once more, so that the state tells of the back-off as kubelet's does.
			retry = time.Time{}
		}
		return w.wait(p, container, failure.Reason, failure.Message, retry)
	}
	config, cleanup, err := w.containerConfig(ctx, p, container, image, w.attempt(p, container.Name))
	defer cleanup()
	if err != nil {
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedToCreateContainer, "Error: %s", err)
		return w.wait(p, container, reasonConfig, err.Error(), time.Time{})
	}
	// Not interrupted half-way: a container must not be left made and not started.
	id, err := w.manager.Containers.Start(context.WithoutCancel(ctx), w.uid, &agent.ContainerPlan{
		SandboxID: p.state.Sandboxes[0].ID, Pod: sandbox, Config: config,
	})
	var refused *agent.ContainerError
	switch {
	case errors.As(err, &refused) && refused.Creating:
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedToCreateContainer, "Error: %s", refused.Err)
		return w.wait(p, container, reasonCreate, refused.Err.Error(), time.Time{})
	case err != nil:
		w.event(p.pod, container, corev1.EventTypeNormal, events.CreatedContainer, "Container created")
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedToStartContainer, "Error: %s", errors.Unwrap(err))
		return w.wait(p, container, reasonRun, err.Error(), time.Time{})
	}
	w.event(p.pod, container, corev1.EventTypeNormal, events.CreatedContainer, "Container created")
	w.event(p.pod, container, corev1.EventTypeNormal, events.StartedContainer, "Container started")
	return w.postStart(ctx, p, container, agent.Container{ID: id, Name: container.Name, StartedAt: w.manager.Clock.Now()})
}

// attempt numbers a new container: one more than what the runtime or the status knows of.
func (w *worker) attempt(p *pass, name string) uint32 {
	attempt := uint32(0)
	if last := (situation{pod: p.pod, state: p.state}).newest(name); last != nil {
		attempt = last.Attempt + 1
	}
	previous := w.previous
	if previous == nil {
		previous = &p.pod.Status
	}
	for _, status := range append(append([]corev1.ContainerStatus{}, previous.InitContainerStatuses...), previous.ContainerStatuses...) {
		if status.Name == name && (status.ContainerID != "" || status.LastTerminationState.Terminated != nil) && len(p.state.Containers) == 0 {
			attempt = max(attempt, uint32(status.RestartCount)+1)
		}
	}
	return attempt
}

// pullSecrets returns the pod's registry credentials, as far as they are to be had: kubelet, too, tries a
// pull without those that are missing, and says so.
func (w *worker) pullSecrets(ctx context.Context, pod *corev1.Pod) []corev1.Secret {
	names, err := w.manager.Objects.PullSecrets(ctx, w.uid)
	if err != nil {
		return nil
	}
	var secrets []corev1.Secret
	for _, name := range names {
		secret, err := w.manager.Objects.Secret(ctx, w.uid, name)
		if err == nil {
			secrets = append(secrets, *secret)
			continue
		}
		if apierrors.IsNotFound(err) {
			w.event(pod, nil, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", name)
		}
	}
	return secrets
}

// postStart runs the container's hook, if it has one, and has its probes watched when it is through. A
// container whose hook fails is killed.
func (w *worker) postStart(ctx context.Context, p *pass, container *corev1.Container, running agent.Container) error {
	if container.Lifecycle != nil && container.Lifecycle.PostStart != nil {
		if text, err := w.manager.hook(ctx, p, container, running.ID, container.Lifecycle.PostStart); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			w.event(p.pod, container, corev1.EventTypeWarning, events.FailedPostStartHook, "%s", text)
			w.event(p.pod, container, corev1.EventTypeNormal, events.KillingContainer, "FailedPostStartHook")
			if err := w.manager.Containers.Stop(context.WithoutCancel(ctx), running.ID, w.specGrace(p.pod)); err != nil {
				return err
			}
			return w.wait(p, container, reasonPostStart, text, time.Time{})
		}
	}
	w.watch(p, container, running, false, probes.State{})
	return nil
}

// deleteDead removes containers of which two newer ones of the same name exist: the newest is the one that
// runs, or that the status speaks of, the one before is for `logs --previous`.
func (w *worker) deleteDead(ctx context.Context, p *pass) error {
	seen := map[string]int{}
	for _, container := range p.state.Containers {
		seen[container.Name]++
		if seen[container.Name] > 2 && container.Phase != agent.ContainerRunning {
			if err := w.manager.Containers.Delete(ctx, container.ID); err != nil {
				return err
			}
		}
	}
	return nil
}
