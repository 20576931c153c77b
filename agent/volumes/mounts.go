package volumes

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/selinux/go-selinux"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/kubernetes/pkg/volume/validation"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

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
// them unless the container mounts that path itself; it writes the hosts file of the pod, which its
// containers share. The cleanup function is never nil; the caller calls it once the container is started
// or has failed to start. The termination message's file is the caller's business.
//
// Errors are kubelet's and hide the node's paths; the container waits with CreateContainerConfigError.
func (m *Manager) Mounts(pod *corev1.Pod, container *corev1.Container, options ContainerOptions) (mounts []*runtimeapi.Mount, cleanup func(), err error) {
	var cleanups []func()
	cleanup = func() {
		for _, clean := range cleanups {
			clean()
		}
	}
	hosts := len(options.PodIPs) > 0 || pod.Spec.HostNetwork
	for i := range container.VolumeMounts {
		wanted := &container.VolumeMounts[i]
		hosts = hosts && wanted.MountPath != hostsPath
		volume, known := options.Volumes[wanted.Name]
		if !known {
			return nil, cleanup, fmt.Errorf("cannot find volume %q to mount into container %q", wanted.Name, container.Name)
		}
		source := volume.Path
		sub, err := subPath(wanted, options.Env)
		if err != nil {
			return nil, cleanup, err
		}
		if sub != "" {
			bound, clean, err := m.bindSubPath(pod, container, i, volume, sub)
			if clean != nil {
				cleanups = append(cleanups, clean)
			}
			if err != nil {
				return nil, cleanup, err
			}
			source = bound
		}
		mount, err := translate(wanted, volume, source, options.RecursiveReadOnly)
		if err != nil {
			return nil, cleanup, err
		}
		mounts = append(mounts, mount)
	}
	if hosts {
		file := filepath.Join(m.podDir(pod.UID), hostsFile)
		if err := writeHosts(file, pod, options); err != nil {
			return nil, cleanup, err
		}
		mounts = append(mounts, &runtimeapi.Mount{
			ContainerPath: hostsPath, HostPath: file, SelinuxRelabel: selinux.GetEnabled(),
		})
	}
	return mounts, cleanup, nil
}

// subPath is the path within the volume that the container sees, references expanded.
func subPath(wanted *corev1.VolumeMount, env map[string]string) (string, error) {
	sub := wanted.SubPath
	if wanted.SubPathExpr != "" {
		missing := sets.New[string]()
		sub = expansion.Expand(wanted.SubPathExpr, func(name string) string {
			if env[name] == "" {
				missing.Insert(name)
			}
			return env[name]
		})
		if missing.Len() > 0 {
			return "", fmt.Errorf("missing value for %s", strings.Join(sets.List(missing), ", "))
		}
	}
	if sub == "" {
		return "", nil
	}
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	if err := validation.ValidatePathNoBacksteps(sub); err != nil {
		return "", fmt.Errorf("unable to provision SubPath `%s`: %w", sub, err)
	}
	return sub, nil
}

// bindSubPath binds a path within a volume to a place that the pod cannot change any more: the pod may
// make links in its volume, which the runtime would follow. A directory that is missing is made, with
// the volume's mode.
func (m *Manager) bindSubPath(pod *corev1.Pod, container *corev1.Container, index int, volume Volume, sub string) (string, func(), error) {
	full := filepath.Join(volume.Path, sub)
	if _, err := os.Stat(full); os.IsNotExist(err) {
		info, err := os.Stat(volume.Path)
		if err != nil {
			return "", nil, err
		}
		if err := m.subpather.SafeMakeDir(sub, volume.Path, info.Mode()); err != nil {
			return "", nil, fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q",
				container.VolumeMounts[index].Name, container.Name)
		}
	}
	bound, clean, err := m.subpather.PrepareSafeSubpath(subpath.Subpath{
		VolumeMountIndex: index,
		Path:             full,
		VolumeName:       container.VolumeMounts[index].Name,
		VolumePath:       volume.Path,
		PodDir:           m.podDir(pod.UID),
		ContainerName:    container.Name,
	})
	if err != nil {
		return "", clean, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q",
			container.VolumeMounts[index].Name, container.Name)
	}
	return bound, clean, nil
}

func translate(wanted *corev1.VolumeMount, volume Volume, source string, recursive bool) (*runtimeapi.Mount, error) {
	target := wanted.MountPath
	if !path.IsAbs(target) {
		target = path.Join("/", target)
	}
	mount := &runtimeapi.Mount{
		HostPath:       source,
		ContainerPath:  target,
		Readonly:       wanted.ReadOnly || volume.ReadOnly,
		SelinuxRelabel: volume.Managed && selinux.GetEnabled(),
	}
	if mode := wanted.MountPropagation; mode != nil {
		switch *mode {
		case corev1.MountPropagationNone:
		case corev1.MountPropagationHostToContainer:
			mount.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			mount.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		default:
			return nil, fmt.Errorf("invalid MountPropagation mode: %q", *mode)
		}
	}
	var err error
	mount.RecursiveReadOnly, err = recursiveReadOnly(wanted, recursive)
	return mount, err
}

func recursiveReadOnly(wanted *corev1.VolumeMount, supported bool) (bool, error) {
	mode := wanted.RecursiveReadOnly
	if mode == nil || *mode == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	problem := func(format string, arguments ...any) (bool, error) {
		return false, fmt.Errorf("failed to resolve recursive read-only mode: volume %q requested recursive read-only mode, but "+format,
			append([]any{wanted.Name}, arguments...)...)
	}
	switch {
	case !wanted.ReadOnly:
		return problem("it is not read-only")
	case wanted.MountPropagation != nil && *wanted.MountPropagation != corev1.MountPropagationNone:
		return problem("it is not compatible with propagation %q", *wanted.MountPropagation)
	case *mode == corev1.RecursiveReadOnlyEnabled && !supported:
		return problem("it is not supported by the runtime")
	}
	return supported, nil
}
