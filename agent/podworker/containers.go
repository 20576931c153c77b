package podworker

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"drayage.dev/agent"
	"drayage.dev/agent/probes"
)

// Reasons of waiting containers, as kubelet's.
const (
	reasonCrashLoop = "CrashLoopBackOff"
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
// cannot be started does not keep the others from it.
func (w *worker) startContainers(ctx context.Context, p *pass, containers []*corev1.Container) (started bool, err error) {
	clear(w.waiting)
	var failures []error
	for _, container := range containers {
		if ctx.Err() != nil {
			return started, ctx.Err()
		}
		if w.inBackoff(p, container) {
			continue
		}
		if err := w.startContainer(ctx, p, container); err != nil {
			failures = append(failures, err)
			continue
		}
		started = true
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
		w.event(p.pod, container, corev1.EventTypeWarning, events.BackOffStartContainer,
			"Back-off restarting failed container %s in pod %s", container.Name, kubePod(p.pod))
		return true
	}
	backoff.Next(key, last.FinishedAt)
	return false
}

// kubePod is how kubelet's messages name a pod.
func kubePod(pod *corev1.Pod) string {
	return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")"
}

// wait notes why a container cannot be started, for the status.
func (w *worker) wait(container *corev1.Container, reason, message string) error {
	w.waiting[container.Name] = corev1.ContainerStateWaiting{Reason: reason, Message: message}
	return errors.Join(errWaiting, errors.New(reason+": "+message))
}

// startContainer takes one container from its image to its postStart hook.
func (w *worker) startContainer(ctx context.Context, p *pass, container *corev1.Container) error {
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
		if !failure.Retry.IsZero() {
			p.wakeAt(failure.Retry)
		}
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedToCreateContainer, "Error: %s", failure.Reason)
		return w.wait(container, failure.Reason, failure.Message)
	}
	config, cleanup, err := w.containerConfig(ctx, p, container, image, w.attempt(p, container.Name))
	defer cleanup()
	if err != nil {
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedToCreateContainer, "Error: %s", err)
		return w.wait(container, reasonConfig, err.Error())
	}
	// Not interrupted half-way: a container must not be left made and not started.
	id, err := w.manager.Containers.Start(context.WithoutCancel(ctx), w.uid, &agent.ContainerPlan{
		SandboxID: p.state.Sandboxes[0].ID, Pod: sandbox, Config: config,
	})
	var refused *agent.ContainerError
	switch {
	case errors.As(err, &refused) && refused.Creating:
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedToCreateContainer, "Error: %s", refused.Err)
		return w.wait(container, reasonCreate, refused.Err.Error())
	case err != nil:
		w.event(p.pod, container, corev1.EventTypeNormal, events.CreatedContainer, "Container created")
		w.event(p.pod, container, corev1.EventTypeWarning, events.FailedToStartContainer, "Error: %s", errors.Unwrap(err))
		return w.wait(container, reasonRun, err.Error())
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
			return w.wait(container, reasonPostStart, text)
		}
	}
	w.watch(p, container, running, false, probes.State{})
	return nil
}
