package status

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	upstreamstatus "k8s.io/kubernetes/pkg/kubelet/status"
	"k8s.io/utils/ptr"

	"drayage.dev/agent"
	"drayage.dev/agent/resources"
	dcorev1 "drayage.dev/apis/core/v1"
)

// Reasons of waiting containers that have no failure to tell of.
const (
	ContainerCreating = "ContainerCreating"
	PodInitializing   = "PodInitializing"
)

// Observed is everything that a pod's status is made of.
type Observed struct {
	// Pod is the pod as the API has it; its status is what others wrote and what an earlier agent did.
	Pod *corev1.Pod
	// Previous is the status that this agent generated last; nil the first time.
	Previous *corev1.PodStatus
	// Runtime is what the runtime holds of the pod; zero when it holds nothing.
	Runtime agent.PodState
	// Waiting says why a container that does not run cannot be started at this moment.
	Waiting map[string]corev1.ContainerStateWaiting
	// Probed returns what the probes of a running container say.
	Probed func(containerID string) (started, ready bool)
	// TerminationMessage returns what an exited container left behind.
	TerminationMessage func(agent.Container) string
	// HostIPs are the node's addresses, the primary one first.
	HostIPs []netip.Addr
	// Ended says that no container of the pod will be started again.
	Ended bool
	// Verdict, when set, ends the pod in failure for a reason outside its containers.
	Verdict *Verdict
	Now     time.Time
}

// Verdict says why a pod has failed as a whole.
type Verdict struct {
	Reason, Message string
}

// Generate returns the pod's status. It is complete but for conditions that others own, which Writer
// keeps.
func Generate(o Observed) corev1.PodStatus {
	previous := o.Previous
	if previous == nil {
		previous = &o.Pod.Status
	}
	pod := o.Pod
	s := corev1.PodStatus{
		ObservedGeneration: pod.Generation, QOSClass: resources.QOS(pod), StartTime: previous.StartTime,
		NominatedNodeName: pod.Status.NominatedNodeName,
	}
	if s.StartTime == nil {
		s.StartTime = ptr.To(metav1.NewTime(o.Now).Rfc3339Copy())
	}
	initialized := appStarted(o)
	if !o.rejected(previous) {
		s.InitContainerStatuses = o.containerStatuses(pod.Spec.InitContainers, previous.InitContainerStatuses, true, initialized)
		s.ContainerStatuses = o.containerStatuses(pod.Spec.Containers, previous.ContainerStatuses, false, initialized)
	}

	all := append(append([]corev1.ContainerStatus{}, s.InitContainerStatuses...), s.ContainerStatuses...)
	s.Phase = phase(pod, all, o.Ended, initialized)
	if terminal(previous.Phase) {
		s.Phase = previous.Phase
	}
	if s.Phase == previous.Phase {
		s.Reason, s.Message = previous.Reason, previous.Message
	}
	if o.Verdict != nil && !terminal(previous.Phase) {
		s.Phase, s.Reason, s.Message = corev1.PodFailed, o.Verdict.Reason, o.Verdict.Message
	}
	o.addresses(&s, previous)
	o.conditions(&s, previous, all)
	return s
}

// rejected says that the pod was never let in: it has no containers to tell of, so that the pod's own
// reason is what users see.
func (o Observed) rejected(previous *corev1.PodStatus) bool {
	if len(o.Runtime.Sandboxes) > 0 || len(o.Runtime.Containers) > 0 {
		return false
	}
	return o.Verdict != nil || terminal(previous.Phase) && len(previous.ContainerStatuses) == 0
}

func terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// appStarted says whether any app container has been started in the newest sandbox: only then are
// initialisations over.
func appStarted(o Observed) bool {
	if len(o.Runtime.Sandboxes) == 0 {
		return false
	}
	apps := map[string]bool{}
	for i := range o.Pod.Spec.Containers {
		apps[o.Pod.Spec.Containers[i].Name] = true
	}
	for _, container := range o.Runtime.Containers {
		if apps[container.Name] && container.SandboxID == o.Runtime.Sandboxes[0].ID && container.Phase != agent.ContainerCreated {
			return true
		}
	}
	return false
}

// addresses sets the pod's and the host's. A pod's addresses stay in its status when its sandbox is gone.
func (o Observed) addresses(s *corev1.PodStatus, previous *corev1.PodStatus) {
	for i, address := range o.HostIPs {
		if i == 0 {
			s.HostIP = address.String()
		}
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: address.String()})
	}
	var pods []netip.Addr
	if o.Pod.Spec.HostNetwork {
		if len(o.Runtime.Sandboxes) > 0 {
			pods = o.HostIPs
		}
	} else if len(o.Runtime.Sandboxes) > 0 && o.Runtime.Sandboxes[0].Ready {
		pods = o.Runtime.Sandboxes[0].Addresses
	}
	for i, address := range pods {
		if i == 0 {
			s.PodIP = address.String()
		}
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: address.String()})
	}
	if len(pods) == 0 {
		s.PodIP, s.PodIPs = previous.PodIP, previous.PodIPs
	}
}

// owned are the conditions that the agent writes; every other condition is somebody else's.
var owned = map[corev1.PodConditionType]bool{
	corev1.PodReadyToStartContainers: true, corev1.PodInitialized: true, corev1.PodReady: true, corev1.ContainersReady: true,
	dcorev1.PodStalled: true,
}

func (o Observed) conditions(s *corev1.PodStatus, previous *corev1.PodStatus, all []corev1.ContainerStatus) {
	pod := o.Pod
	ready := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(previous, pod.Generation, corev1.PodReadyToStartContainers)}
	if len(o.Runtime.Sandboxes) > 0 {
		if sandbox := o.Runtime.Sandboxes[0]; sandbox.Ready && (pod.Spec.HostNetwork || len(sandbox.Addresses) > 0) {
			ready.Status = corev1.ConditionTrue
		}
	}
	s.Conditions = []corev1.PodCondition{
		ready,
		upstreamstatus.GeneratePodInitializedCondition(pod, previous, all, s.Phase),
		// Readiness gates are others' conditions, so they are looked for in the API's status.
		upstreamstatus.GeneratePodReadyCondition(pod, previous, pod.Status.Conditions, all, s.Phase),
		upstreamstatus.GenerateContainersReadyCondition(pod, previous, all, s.Phase),
	}
	if reason, message := stalled(s); reason != "" {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: dcorev1.PodStalled, Status: corev1.ConditionTrue,
			ObservedGeneration: pod.Generation, Reason: reason, Message: message})
	}
	for i := range s.Conditions {
		condition := &s.Conditions[i]
		condition.LastTransitionTime = metav1.NewTime(o.Now).Rfc3339Copy()
		if _, old := podutil.GetPodConditionFromList(previous.Conditions, condition.Type); old != nil && old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
	}
}
