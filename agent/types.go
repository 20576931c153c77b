package agent

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"drayage.dev/internal/node"
)

// PodPlan is everything a runtime needs to make a pod's sandbox. The container runtime interface's
// messages are the vocabulary, whatever the runtime: every one speaks it, and the packages that turn a
// pod's spec into resources and security settings yield it.
type PodPlan struct {
	// Config is the sandbox's configuration; its metadata carries the pod's UID, namespace and name.
	// The runtime sets the attempt.
	Config *runtimeapi.PodSandboxConfig
	// RuntimeHandler is the handler of the pod's runtime class; empty means the default.
	RuntimeHandler string
}

// ContainerPlan is everything a runtime needs to start a container.
type ContainerPlan struct {
	// SandboxID is the sandbox that Prepare returned.
	SandboxID string
	// Pod is the configuration that the sandbox was prepared with.
	Pod *runtimeapi.PodSandboxConfig
	// Config is the container's configuration; its metadata carries name and attempt, its LogPath
	// is relative to Pod's LogDirectory.
	Config *runtimeapi.ContainerConfig
}

// Sandbox is one sandbox of a pod.
type Sandbox struct {
	ID      string
	Attempt uint32
	// Ready says that it lives.
	Ready     bool
	CreatedAt time.Time
	// Addresses are the pod's, the primary one first; empty with host network.
	Addresses []netip.Addr
	// NetNS is the path of its network namespace, where the runtime tells.
	NetNS string
}

// ContainerPhase is where a container stands in its life.
type ContainerPhase int

// A container is created, then runs, then has exited; an unknown one is treated as exited.
const (
	ContainerUnknown ContainerPhase = iota
	ContainerCreated
	ContainerRunning
	ContainerExited
)

// Container is one container, alive or dead, of a pod.
type Container struct {
	ID        string
	Name      string
	Attempt   uint32
	SandboxID string
	Phase     ContainerPhase

	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	// Reason and Message are the runtime's, such as "OOMKilled".
	Reason  string
	Message string

	// Image is what the container was asked to run, ImageRef the repository digest or id of what it
	// runs, ImageID the id in the runtime's store.
	Image    string
	ImageRef string
	ImageID  string

	// LogPath is the absolute path of its log.
	LogPath string
	// Annotations are the ones that it was created with.
	Annotations map[string]string
	// User is the identity of its first process, where the runtime tells.
	User *runtimeapi.ContainerUser
}

// PodState is what a runtime holds of one pod.
type PodState struct {
	UID       types.UID
	Namespace string
	Name      string
	// Labels and Annotations are the sandbox's.
	Labels      map[string]string
	Annotations map[string]string
	// Sandboxes and Containers are sorted, the newest first.
	Sandboxes  []Sandbox
	Containers []Container
}

// Ref names the pod's newest sandbox to the network.
func (s PodState) Ref() node.PodRef {
	ref := node.PodRef{UID: s.UID, Namespace: s.Namespace, Name: s.Name}
	if len(s.Sandboxes) > 0 {
		ref.SandboxID, ref.NetNS, ref.Addresses = s.Sandboxes[0].ID, s.Sandboxes[0].NetNS, s.Sandboxes[0].Addresses
	}
	return ref
}

// Event is a hint that the runtime's state has changed.
type Event struct {
	// Pod is the UID of the pod concerned; empty when the runtime could not tell.
	Pod types.UID
	// ContainerID is the container or sandbox concerned, where known.
	ContainerID string
	// OOM says that a process of the container was killed for want of memory.
	OOM bool
	// Overflow says that events were lost: everything may have changed.
	Overflow bool
}

// Image is an image in the runtime's store.
type Image struct {
	// ID is the store's; Ref is what a container is created from and statuses report.
	ID  string
	Ref string
	// UID and Username are the user that the image asks for: UID is nil when it asks for none or
	// names one, Username is empty when it asks for none or numbers one.
	UID      *int64
	Username string
}

// ImageRequest asks for the image of one container.
type ImageRequest struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	// Secrets are the pod's image pull secrets, as far as they exist.
	Secrets []corev1.Secret
	// Sandbox is the configuration of the sandbox that the image is pulled for.
	Sandbox *runtimeapi.PodSandboxConfig
}

// ImageError says why an image is not there, in the words of a waiting container.
type ImageError struct {
	// Reason is kubelet's: ErrImagePull, ImagePullBackOff, ErrImageNeverPull, InvalidImageName ...
	Reason  string
	Message string
	// Retry is when asking again can help; zero when nobody knows.
	Retry time.Time
}

func (e *ImageError) Error() string { return e.Reason + ": " + e.Message }

// ContainerError tells at which step a runtime refused a container.
type ContainerError struct {
	// Creating is true when the container could not be created, false when it could not be started.
	Creating bool
	// ID is the container's; empty when it was not created.
	ID  string
	Err error
}

func (e *ContainerError) Error() string {
	if e.Creating {
		return fmt.Sprintf("creating container: %v", e.Err)
	}
	return fmt.Sprintf("starting container: %v", e.Err)
}

func (e *ContainerError) Unwrap() error { return e.Err }
