package status

import (
	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// phase follows kubelet's rules. statuses holds those of init and app containers; ended says that nothing
// will be started again; initialized that an app container has run in this sandbox.
func phase(pod *corev1.Pod, statuses []corev1.ContainerStatus, ended, initialized bool) corev1.PodPhase {
	failed, pendingInit, pendingSidecar, sidecars := initPhase(pod, statuses)
	if failed {
		return corev1.PodFailed
	}
	var running, waiting, stopped, final, succeeded, unknown int
	running, waiting = sidecars.running, sidecars.waiting
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		status, found := podutil.GetContainerStatus(statuses, container.Name)
		last := status.State.Terminated
		switch {
		case !found:
			unknown++
			continue
		case status.State.Running != nil:
			running++
			continue
		case last != nil:
			if last.ExitCode == 0 {
				succeeded++
			}
		case status.State.Waiting != nil && status.LastTerminationState.Terminated != nil:
			last = status.LastTerminationState.Terminated
		case status.State.Waiting != nil:
			waiting++
			continue
		default:
			unknown++
			continue
		}
		stopped++
		if !podutil.ContainerShouldRestart(*container, pod.Spec, last.ExitCode) {
			final++
		}
	}
	switch {
	case pendingInit > 0, pendingSidecar > 0 && !initialized, waiting > 0:
		return corev1.PodPending
	case running > 0 && unknown == 0:
		return corev1.PodRunning
	case running == 0 && stopped > 0 && unknown == 0:
		switch {
		case !ended && stopped != final:
			return corev1.PodRunning
		case stopped == succeeded:
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	}
	return corev1.PodPending
}

type sidecarCounts struct{ running, waiting int }

// initPhase counts init containers: whether one has failed for good, regular ones that are not through,
// and sidecars that are not started.
func initPhase(pod *corev1.Pod, statuses []corev1.ContainerStatus) (failed bool, pending, pendingSidecars int, sidecars sidecarCounts) {
	for i := range pod.Spec.InitContainers {
		container := &pod.Spec.InitContainers[i]
		status, _ := podutil.GetContainerStatus(statuses, container.Name)
		last := status.State.Terminated
		if last == nil && status.State.Waiting != nil {
			last = status.LastTerminationState.Terminated
		}
		if podutil.IsRestartableInitContainer(container) {
			switch {
			case status.State.Running != nil:
				sidecars.running++
				if status.Started == nil || !*status.Started {
					pendingSidecars++
				}
			case last == nil:
				pendingSidecars++
				sidecars.waiting++
			}
			continue
		}
		switch {
		case status.State.Running != nil, last == nil:
			pending++
		case last.ExitCode != 0:
			if !podutil.ContainerShouldRestart(*container, pod.Spec, last.ExitCode) {
				failed = true
			}
		}
	}
	return failed, pending, pendingSidecars, sidecars
}
