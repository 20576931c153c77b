package env

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
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
//
// Variables of envFrom come first, those of env replace them, and both replace those of services. A
// value refers to variables that stand before it, and to services.
func Make(ctx context.Context, pod *corev1.Pod, container *corev1.Container, sources Sources) (map[string]string, error) {
	services, err := sources.serviceVariables(pod)
	if err != nil {
		return nil, err
	}
	maker := &maker{ctx: ctx, pod: pod, container: container, sources: sources}
	result := map[string]string{}
	for i := range container.EnvFrom {
		if err := maker.addAll(result, &container.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	lookup := expansion.MappingFuncFor(result, services)
	for i := range container.Env {
		variable := &container.Env[i]
		value, found := variable.Value, true
		if value != "" {
			value = expansion.Expand(value, lookup)
		} else if variable.ValueFrom != nil {
			if value, found, err = maker.value(variable.ValueFrom); err != nil {
				return nil, err
			}
		}
		if found {
			result[variable.Name] = value
		}
	}
	for name, value := range services {
		if _, taken := result[name]; !taken {
			result[name] = value
		}
	}
	return result, nil
}

// KeyValues returns an environment as the runtime wants it, ordered by name.
func KeyValues(environment map[string]string) []*runtimeapi.KeyValue {
	list := make([]*runtimeapi.KeyValue, 0, len(environment))
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		list = append(list, &runtimeapi.KeyValue{Key: name, Value: []byte(environment[name])})
	}
	return list
}

// Command returns the container's command and arguments with their $(VAR) references expanded.
func Command(container *corev1.Container, environment map[string]string) (command, args []string) {
	lookup := expansion.MappingFuncFor(environment)
	for _, word := range container.Command {
		command = append(command, expansion.Expand(word, lookup))
	}
	for _, word := range container.Args {
		args = append(args, expansion.Expand(word, lookup))
	}
	return command, args
}
