package env

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Objects gives access to what the pod may read. An object that does not exist is an API error for which
// apierrors.IsNotFound holds.
type Objects interface {
	Secret(ctx context.Context, pod types.UID, name string) (*corev1.Secret, error)
	ConfigMap(ctx context.Context, pod types.UID, name string) (*corev1.ConfigMap, error)
}

// Sources is where the environment of a pod's containers comes from.
type Sources struct {
	// Objects holds the ConfigMaps and Secrets.
	Objects Objects
	// Services lists the services of the pod's namespace and default/kubernetes; others do no harm.
	// Nil means none.
	Services func() ([]*corev1.Service, error)
	// PodIPs and HostIPs are the addresses of pod and node, the primary one first.
	PodIPs  []string
	HostIPs []string
	// Allocatable is the node's: what resourceFieldRef yields for a limit that is not set.
	Allocatable corev1.ResourceList
	// VolumePaths says where the pod's volumes are on the node, for fileKeyRef.
	VolumePaths map[string]string
}

// Make returns the environment of a container by name. Errors are kubelet's, such as
// `couldn't find key k in ConfigMap ns/name`; the container waits with CreateContainerConfigError.
func Make(ctx context.Context, pod *corev1.Pod, container *corev1.Container, sources Sources) (map[string]string, error) {
	panic("not implemented")
}

// KeyValues returns an environment as the runtime wants it, ordered by name.
func KeyValues(environment map[string]string) []*runtimeapi.KeyValue { panic("not implemented") }

// Command returns the container's command and arguments with their $(VAR) references expanded.
func Command(container *corev1.Container, environment map[string]string) (command, args []string) {
	panic("not implemented")
}
