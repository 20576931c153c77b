package volumes

import (
	"context"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
)

// Objects gives access to what pods of this node may read. An object that does not exist is an API
// error for which apierrors.IsNotFound holds, with upstream's text (`configmaps "x" not found`).
type Objects interface {
	Secret(ctx context.Context, pod types.UID, name string) (*corev1.Secret, error)
	ConfigMap(ctx context.Context, pod types.UID, name string) (*corev1.ConfigMap, error)
	// Token mints a token of the pod's service account.
	Token(ctx context.Context, pod types.UID, request *authv1.TokenRequest) (*authv1.TokenRequest, error)
}

// Config is what a Manager needs to know of its node.
type Config struct {
	// PodsDir holds a directory per pod, named by its UID.
	PodsDir string
	// Objects is where ConfigMaps, Secrets and tokens come from.
	Objects Objects
	// NodeName is the node's name.
	NodeName string
	// Allocatable returns the node's allocatable resources: the default of resourceFieldRef and the
	// upper bound of memory-backed volumes.
	Allocatable func() corev1.ResourceList
	// Clock tells the time for token renewal; the real one when nil.
	Clock clock.PassiveClock
}

// Volume is a volume of a pod that is ready to be mounted into containers.
type Volume struct {
	// Path is where the volume is on the node.
	Path string
	// ReadOnly says that containers may only read it (configMap, secret, downwardAPI, projected).
	ReadOnly bool
}

// Manager mounts, refreshes and unmounts the volumes of this node's pods. It is safe for concurrent use;
// calls for one pod must not overlap.
type Manager struct{ Config }

// New returns a Manager. It touches nothing yet.
func New(config Config) *Manager { return &Manager{Config: config} }

// Mount makes every volume of the pod ready and returns them by name. Called again it changes nothing
// that is in place, except that ConfigMaps, Secrets, downward API files and tokens are brought up to date.
//
// Errors are worded as kubelet's FailedMount events are and name the volume and the object:
// `MountVolume.SetUp failed for volume "x" : configmaps "y" not found`.
func (m *Manager) Mount(ctx context.Context, pod *corev1.Pod) (map[string]Volume, error) {
	panic("not implemented")
}

// Refresh brings ConfigMaps, Secrets, downward API files and tokens of a mounted pod up to date. It
// returns when the pod's next token wants renewal, or the zero time when it has none; the caller calls
// again then, when an object that the pod refers to has changed, and when the pod's metadata has.
func (m *Manager) Refresh(ctx context.Context, pod *corev1.Pod) (time.Time, error) {
	panic("not implemented")
}

// Unmount removes every volume of the pod from the node, also those that the API no longer knows of. It
// needs only the UID, leaves the pod's directory itself in place and succeeds when there is nothing.
// No container of the pod may run any more.
func (m *Manager) Unmount(ctx context.Context, pod types.UID) error {
	panic("not implemented")
}

// ContainerOptions is what a container's mounts depend on beside its spec.
type ContainerOptions struct {
	// Volumes are the pod's, from Mount.
	Volumes map[string]Volume
	// Env is the container's environment, for subPathExpr.
	Env map[string]string
	// PodIPs are the pod's addresses; Hostname and Domain its name. They go into /etc/hosts.
	PodIPs   []string
	Hostname string
	Domain   string
	// RecursiveReadOnly says whether the runtime supports recursively read-only mounts.
	RecursiveReadOnly bool
}

// Mounts returns the mounts of one container, in the order of its volumeMounts, with /etc/hosts behind
// them unless the container mounts that path itself; it writes the hosts file of the pod. The cleanup
// function is never nil; the caller calls it once the container is started or has failed to start.
// The termination message's file is the caller's business.
func (m *Manager) Mounts(pod *corev1.Pod, container *corev1.Container, options ContainerOptions) (mounts []*runtimeapi.Mount, cleanup func(), err error) {
	panic("not implemented")
}
