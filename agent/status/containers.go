package status

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/utils/ptr"

	"drayage.dev/agent"
)

// lostExitCode is what a container gets whose end nobody saw.
const lostExitCode = 137

// runtimeName is the scheme of container ids in statuses.
const runtimeName = "containerd"

// ContainerID returns a container's id as statuses show it.
func ContainerID(id string) string { return runtimeName + "://" + id }

// containerStatuses reports the containers in the order of the spec.
func (o Observed) containerStatuses(containers []corev1.Container, old []corev1.ContainerStatus, init, initialized bool) []corev1.ContainerStatus {
	var statuses []corev1.ContainerStatus
	for i := range containers {
		container := &containers[i]
		previous, known := podutil.GetContainerStatus(old, container.Name)
		if !known {
			previous = corev1.ContainerStatus{}
		}
		var found []agent.Container
		for _, candidate := range o.Runtime.Containers {
			if candidate.Name == container.Name {
				found = append(found, candidate)
			}
		}
		status := o.containerStatus(container, previous, found, init, initialized)
		status.VolumeMounts = mountStatuses(container)
		statuses = append(statuses, status)
	}
	return statuses
}

// containerStatus reports one container from what the runtime has of it, the newest first, and what was
// reported before.
func (o Observed) containerStatus(container *corev1.Container, previous corev1.ContainerStatus, found []agent.Container, init, initialized bool) corev1.ContainerStatus {
	if len(found) == 0 {
		return o.absent(container, previous, init, initialized)
	}
	newest := found[0]
	status := corev1.ContainerStatus{
		Name: container.Name, Image: newest.Image, ImageID: newest.ImageRef, ContainerID: ContainerID(newest.ID),
		RestartCount: max(int32(newest.Attempt), previous.RestartCount), LastTerminationState: previous.LastTerminationState,
		State: o.state(newest), Started: ptr.To(false), Resources: container.Resources.DeepCopy(),
		AllocatedResources: container.Resources.Requests, User: user(newest),
	}
	if len(found) > 1 {
		status.LastTerminationState = o.state(found[1])
		if status.LastTerminationState.Terminated == nil {
			status.LastTerminationState = previous.LastTerminationState
		}
	} else if previous.State.Terminated != nil && previous.ContainerID != status.ContainerID {
		status.LastTerminationState = corev1.ContainerState{Terminated: previous.State.Terminated}
	}
	sidecar := init && podutil.IsRestartableInitContainer(container)
	switch {
	case status.State.Running != nil && (!init || sidecar):
		started, ready := o.Probed(newest.ID)
		status.Started, status.Ready = ptr.To(started), ready
	case status.State.Running != nil:
		status.Started = ptr.To(true)
	case status.State.Terminated != nil && init && !sidecar:
		status.Ready = status.State.Terminated.ExitCode == 0
	}
	if waiting, cannot := o.Waiting[container.Name]; cannot && status.State.Running == nil {
		if status.State.Terminated != nil {
			status.LastTerminationState = status.State
		}
		status.State = corev1.ContainerState{Waiting: &waiting}
	}
	return status
}

// absent reports a container that the runtime does not have: not started yet, or lost.
func (o Observed) absent(container *corev1.Container, previous corev1.ContainerStatus, init, initialized bool) corev1.ContainerStatus {
	status := corev1.ContainerStatus{
		Name: container.Name, Image: container.Image, Started: ptr.To(false),
		RestartCount: previous.RestartCount, LastTerminationState: previous.LastTerminationState,
	}
	sidecar := init && podutil.IsRestartableInitContainer(container)
	if previous.State.Terminated != nil {
		// What was seen to end has ended, whatever the runtime has forgotten since.
		previous.Started = ptr.To(false)
		previous.Ready = init && !sidecar && previous.State.Terminated.ExitCode == 0
		status = previous
	} else if init && !sidecar && initialized {
		status.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed",
			Message: "The runtime has forgotten this init container; it must have succeeded, since app containers were started."}
		status.Ready = true
		return status
	}
	if waiting, cannot := o.Waiting[container.Name]; cannot && !(init && !sidecar && status.Ready) {
		if status.State.Terminated != nil {
			status.LastTerminationState, status.Ready = status.State, false
		}
		status.State = corev1.ContainerState{Waiting: &waiting}
		return status
	}
	if previous.State.Terminated != nil {
		return status
	}
	reason := ContainerCreating
	if len(o.Pod.Spec.InitContainers) > 0 {
		reason = PodInitializing
	}
	status.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
	if previous.State.Running != nil && status.LastTerminationState.Terminated == nil {
		status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
			Reason: kubecontainer.ContainerReasonStatusUnknown, ExitCode: lostExitCode, ContainerID: previous.ContainerID,
			Message: "The container was running and is not known to the runtime any more.",
		}
		if o.Pod.DeletionTimestamp == nil {
			status.RestartCount++
		}
	}
	return status
}

// state is the runtime's view of one container.
func (o Observed) state(container agent.Container) corev1.ContainerState {
	switch container.Phase {
	case agent.ContainerRunning:
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(container.StartedAt).Rfc3339Copy()}}
	case agent.ContainerExited:
		terminated := &corev1.ContainerStateTerminated{
			ExitCode: container.ExitCode, Reason: container.Reason, Message: container.Message, ContainerID: ContainerID(container.ID),
			StartedAt: metav1.NewTime(container.StartedAt).Rfc3339Copy(), FinishedAt: metav1.NewTime(container.FinishedAt).Rfc3339Copy(),
		}
		if terminated.Reason == "" {
			terminated.Reason = "Completed"
			if container.ExitCode != 0 {
				terminated.Reason = "Error"
			}
		}
		if o.TerminationMessage != nil {
			if message := o.TerminationMessage(container); message != "" {
				terminated.Message = message
			}
		}
		return corev1.ContainerState{Terminated: terminated}
	}
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: ContainerCreating}}
}

func user(container agent.Container) *corev1.ContainerUser {
	linux := container.User.GetLinux()
	if linux == nil {
		return nil
	}
	return &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: linux.Uid, GID: linux.Gid, SupplementalGroups: linux.SupplementalGroups}}
}

// mountStatuses says how volumes are mounted. No runtime that is supported mounts recursively read-only.
func mountStatuses(container *corev1.Container) []corev1.VolumeMountStatus {
	var mounts []corev1.VolumeMountStatus
	for _, mount := range container.VolumeMounts {
		status := corev1.VolumeMountStatus{Name: mount.Name, MountPath: mount.MountPath, ReadOnly: mount.ReadOnly}
		if mount.ReadOnly {
			status.RecursiveReadOnly = ptr.To(corev1.RecursiveReadOnlyDisabled)
		}
		mounts = append(mounts, status)
	}
	return mounts
}
