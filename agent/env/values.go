package env

import (
	"context"
	"errors"
	"fmt"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	podshelper "k8s.io/kubernetes/pkg/apis/core/pods"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/pkg/kubelet/util/env"
)

// maker resolves one container's variables; it asks for each object once.
type maker struct {
	ctx       context.Context
	pod       *corev1.Pod
	container *corev1.Container
	sources   Sources

	configMaps map[string]map[string]string
	secrets    map[string]map[string]string
}

// addAll adds every key of a ConfigMap or Secret.
func (m *maker) addAll(result map[string]string, from *corev1.EnvFromSource) error {
	var data map[string]string
	var err error
	switch {
	case from.ConfigMapRef != nil:
		data, err = m.configMap(from.ConfigMapRef.Name)
		err = ignoreMissing(err, from.ConfigMapRef.Optional)
	case from.SecretRef != nil:
		data, err = m.secret(from.SecretRef.Name)
		err = ignoreMissing(err, from.SecretRef.Optional)
	}
	if err != nil {
		return err
	}
	for key, value := range data {
		result[from.Prefix+key] = value
	}
	return nil
}

// value resolves a reference; false means that an optional one points at nothing and the variable is
// left out.
func (m *maker) value(from *corev1.EnvVarSource) (string, bool, error) {
	switch {
	case from.FieldRef != nil:
		value, err := m.field(from.FieldRef)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err := m.resource(from.ResourceFieldRef)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		data, err := m.configMap(ref.Name)
		return m.key(data, err, ref.Key, ref.Optional, "ConfigMap", ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		data, err := m.secret(ref.Name)
		return m.key(data, err, ref.Key, ref.Optional, "Secret", ref.Name)
	case from.FileKeyRef != nil:
		return m.file(from.FileKeyRef)
	default:
		return "", true, nil
	}
}

func (m *maker) key(data map[string]string, err error, key string, optional *bool, kind, name string) (string, bool, error) {
	if err != nil {
		return "", false, ignoreMissing(err, optional)
	}
	value, found := data[key]
	if !found && !isTrue(optional) {
		return "", false, fmt.Errorf("couldn't find key %v in %s %v/%v", key, kind, m.pod.Namespace, name)
	}
	return value, found, nil
}

func (m *maker) configMap(name string) (map[string]string, error) {
	if data, known := m.configMaps[name]; known {
		return data, nil
	}
	object, err := m.sources.Objects.ConfigMap(m.ctx, m.pod.UID, name)
	if err != nil {
		return nil, err
	}
	if m.configMaps == nil {
		m.configMaps = map[string]map[string]string{}
	}
	m.configMaps[name] = object.Data
	return object.Data, nil
}

func (m *maker) secret(name string) (map[string]string, error) {
	if data, known := m.secrets[name]; known {
		return data, nil
	}
	object, err := m.sources.Objects.Secret(m.ctx, m.pod.UID, name)
	if err != nil {
		return nil, err
	}
	if m.secrets == nil {
		m.secrets = map[string]map[string]string{}
	}
	data := make(map[string]string, len(object.Data))
	for key, value := range object.Data {
		data[key] = string(value)
	}
	m.secrets[name] = data
	return data, nil
}

func (m *maker) field(ref *corev1.ObjectFieldSelector) (string, error) {
	path, _, err := podshelper.ConvertDownwardAPIFieldLabel(ref.APIVersion, ref.FieldPath, "")
	if err != nil {
		return "", err
	}
	switch path {
	case "spec.nodeName":
		return m.pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return m.pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(m.sources.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(m.sources.HostIPs, ","), nil
	case "status.podIP":
		return first(m.sources.PodIPs), nil
	case "status.podIPs":
		return strings.Join(m.sources.PodIPs, ","), nil
	}
	return fieldpath.ExtractFieldPathAsString(m.pod, path)
}

// resource resolves a request or limit; a limit that is not set is the pod's, else the node's allocatable.
func (m *maker) resource(ref *corev1.ResourceFieldSelector) (string, error) {
	defaults := m.sources.Allocatable
	if resourcehelper.IsPodLevelLimitsSet(m.pod) {
		defaults = defaults.DeepCopy()
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if limit, set := m.pod.Spec.Resources.Limits[name]; set && !limit.IsZero() {
				if _, known := defaults[name]; known {
					defaults[name] = limit
				}
			}
		}
	}
	if ref.ContainerName == "" {
		container := m.container.DeepCopy()
		resource.MergeContainerResourceLimits(container, defaults)
		return resource.ExtractContainerResourceValue(ref, container)
	}
	pod := m.pod.DeepCopy()
	for i := range pod.Spec.Containers {
		resource.MergeContainerResourceLimits(&pod.Spec.Containers[i], defaults)
	}
	return resource.ExtractResourceValueByContainerName(ref, pod, ref.ContainerName)
}

// file reads a key from an environment file in a volume of the pod.
func (m *maker) file(ref *corev1.FileKeySelector) (string, bool, error) {
	volume, known := m.sources.VolumePaths[ref.VolumeName]
	if !known {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	path, err := securejoin.SecureJoin(volume, ref.Path)
	if err != nil {
		return "", false, err
	}
	value, err := env.ParseEnv(path, ref.Key)
	if err != nil {
		// What the file holds is the container's secret, so the reason stays here.
		return "", false, errors.New("couldn't parse env file")
	}
	if value == "" {
		if isTrue(ref.Optional) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, path)
	}
	return value, true, nil
}

func ignoreMissing(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	return err
}

func isTrue(value *bool) bool { return value != nil && *value }

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
