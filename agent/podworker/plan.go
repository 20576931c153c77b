package podworker

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"

	"drayage.dev/agent"
	"drayage.dev/agent/probes"
)

// hashAnnotation marks a container with the hash of the spec that it was made from.
const hashAnnotation = "io.kubernetes.container.hash"

// situation is what a plan is made from. It is plain data, so that decide can be tested by table.
type situation struct {
	pod   *corev1.Pod
	state agent.PodState
	// failed holds the containers that a probe wants restarted, by id.
	failed map[string]probes.Change
	// started says whether a running container has passed its startup probe and its postStart hook.
	started func(containerID string) bool
}

// plan is what has to happen next; at most one of sandbox and done is set.
type plan struct {
	// sandbox asks for a (new) sandbox; everything else is decided when it is there.
	sandbox bool
	// stop are containers to stop, each with the event's text.
	stop []stopIntent
	// start are containers to start, in this order, those just stopped among them.
	start []*corev1.Container
	// done says that nothing of the pod runs that matters, nor ever will: it has completed or failed.
	done bool
}

type stopIntent struct {
	container agent.Container
	message   string
	// grace is the failed probe's grace period in seconds; nil means the pod's.
	grace *int64
}

// decide follows kubelet's rules for what a pod's containers need.
func decide(s situation) plan {
	if !s.sandboxReady() {
		return s.withoutSandbox()
	}
	var p plan
	if !s.initialized() {
		if through := s.initialize(&p); !through {
			return p
		}
	} else {
		s.keepSidecars(&p)
	}
	s.keepApps(&p)
	return p
}

// sandboxReady says that the newest sandbox lives and has a network.
func (s situation) sandboxReady() bool {
	if len(s.state.Sandboxes) == 0 {
		return false
	}
	newest := s.state.Sandboxes[0]
	return newest.Ready && (s.pod.Spec.HostNetwork || len(newest.Addresses) > 0)
}

// newest returns the newest container of that name, of any sandbox; current only of the newest sandbox.
func (s situation) newest(name string) *agent.Container {
	at := slices.IndexFunc(s.state.Containers, func(c agent.Container) bool { return c.Name == name })
	if at < 0 {
		return nil
	}
	return &s.state.Containers[at]
}

func (s situation) current(name string) *agent.Container {
	if found := s.newest(name); found != nil && len(s.state.Sandboxes) > 0 && found.SandboxID == s.state.Sandboxes[0].ID {
		return found
	}
	return nil
}

// again says whether the restart policy wants a container (anew); one that never ran is always wanted.
func (s situation) again(container *corev1.Container, last *agent.Container) bool {
	if last == nil {
		return true
	}
	switch last.Phase {
	case agent.ContainerRunning:
		return false
	case agent.ContainerExited:
		return podutil.ContainerShouldRestart(*container, s.pod.Spec, last.ExitCode)
	}
	return true
}

// initialized says that an app container has been made in this sandbox.
func (s situation) initialized() bool {
	return slices.ContainsFunc(s.pod.Spec.Containers, func(c corev1.Container) bool { return s.current(c.Name) != nil })
}

// initFailed says that an init container has failed for good.
func (s situation) initFailed() bool {
	for i := range s.pod.Spec.InitContainers {
		container := &s.pod.Spec.InitContainers[i]
		last := s.newest(container.Name)
		if last != nil && !podutil.IsRestartableInitContainer(container) && last.Phase == agent.ContainerExited &&
			last.ExitCode != 0 && !s.again(container, last) {
			return true
		}
	}
	return false
}

// withoutSandbox asks for one only when something would run in it.
func (s situation) withoutSandbox() plan {
	if s.initFailed() {
		return plan{done: true}
	}
	for i := range s.pod.Spec.Containers {
		container := &s.pod.Spec.Containers[i]
		last := s.newest(container.Name)
		// One that ran in the dead sandbox ends with it.
		if last != nil && last.Phase == agent.ContainerRunning {
			last = &agent.Container{Phase: agent.ContainerExited, ExitCode: killedExitCode}
		}
		if s.again(container, last) {
			return plan{sandbox: true}
		}
	}
	return plan{done: true}
}

// killedExitCode is what a process that got SIGKILL exits with.
const killedExitCode = 137

// initialize takes the init containers in order. It returns true when all are through, else p says what
// the first one that is not needs; an empty plan means: wait.
func (s situation) initialize(p *plan) (through bool) {
	for i := range s.pod.Spec.InitContainers {
		container := &s.pod.Spec.InitContainers[i]
		last := s.current(container.Name)
		sidecar := podutil.IsRestartableInitContainer(container)
		switch {
		case last == nil:
			p.start = append(p.start, container)
			return false
		case last.Phase == agent.ContainerRunning:
			if s.stopUnwell(p, container, last) {
				p.start = append(p.start, container)
				return false
			}
			if !sidecar || !s.started(last.ID) {
				return false
			}
		case last.Phase == agent.ContainerExited && !sidecar && last.ExitCode == 0:
		case last.Phase == agent.ContainerExited && !s.again(container, last):
			p.done = true
			return false
		default:
			if last.Phase != agent.ContainerExited {
				p.stop = append(p.stop, stopIntent{container: *last, message: "Init container is in an unknown state, try killing it before restart"})
			}
			p.start = append(p.start, container)
			return false
		}
	}
	return true
}

// keepSidecars restarts those that do not run, or not well.
func (s situation) keepSidecars(p *plan) {
	for i := range s.pod.Spec.InitContainers {
		container := &s.pod.Spec.InitContainers[i]
		if !podutil.IsRestartableInitContainer(container) {
			continue
		}
		last := s.current(container.Name)
		if last == nil || last.Phase != agent.ContainerRunning || s.stopUnwell(p, container, last) {
			p.start = append(p.start, container)
		}
	}
}

// keepApps starts and restarts app containers as the restart policy says, and finds out when all are over.
func (s situation) keepApps(p *plan) {
	sidecarsOnly := len(p.start)
	alive := 0
	for i := range s.pod.Spec.Containers {
		container := &s.pod.Spec.Containers[i]
		last := s.newest(container.Name)
		if last != nil && last.Phase == agent.ContainerRunning && s.current(container.Name) != nil {
			if !s.stopUnwell(p, container, last) {
				alive++
				continue
			}
			// A changed spec wants the container whatever the policy; a failed probe asks the policy.
			changed := s.changed(container, last)
			if changed || podutil.ContainerShouldRestart(*container, s.pod.Spec, killedExitCode) {
				p.start = append(p.start, container)
			}
			continue
		}
		if s.again(container, last) {
			if last != nil && last.Phase != agent.ContainerExited && s.current(container.Name) != nil {
				p.stop = append(p.stop, stopIntent{container: *last, message: "Container is in an unknown state, try killing it before restart"})
			}
			p.start = append(p.start, container)
		}
	}
	if alive == 0 && len(p.start) == sidecarsOnly && len(p.stop) == 0 {
		*p = plan{done: true}
	}
}

// stopUnwell adds a running container to those that are stopped when its spec has changed or a probe has
// failed for good.
func (s situation) stopUnwell(p *plan, container *corev1.Container, running *agent.Container) bool {
	change, unwell := s.failed[running.ID]
	switch {
	case s.changed(container, running):
		p.stop = append(p.stop, stopIntent{container: *running, message: "Container " + container.Name + " definition changed"})
	case unwell && change.Failed == probes.Startup:
		p.stop = append(p.stop, stopIntent{container: *running, message: "Container " + container.Name + " failed startup probe", grace: change.GracePeriodSeconds})
	case unwell:
		p.stop = append(p.stop, stopIntent{container: *running, message: "Container " + container.Name + " failed liveness probe", grace: change.GracePeriodSeconds})
	default:
		return false
	}
	return true
}

// changed says whether the container was made from another spec (its image is all that may change).
func (s situation) changed(container *corev1.Container, running *agent.Container) bool {
	hash, marked := running.Annotations[hashAnnotation]
	return marked && hash != hashOf(container)
}

func hashOf(container *corev1.Container) string {
	return strconv.FormatUint(kubecontainer.HashContainer(container), 16)
}
