package podworker

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"drayage.dev/agent"
	"drayage.dev/agent/env"
	"drayage.dev/agent/resources"
	"drayage.dev/agent/security"
	"drayage.dev/agent/volumes"
)

// hostNameMax is how long a Linux host name may be, in bytes.
const hostNameMax = 63

// hostname returns the pod's host name and domain, by upstream's rules.
func (w *worker) hostname(pod *corev1.Pod) (name, domain string) {
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride, ""
	}
	if pod.Spec.HostNetwork {
		return w.manager.Hostname, ""
	}
	name = pod.Spec.Hostname
	if name == "" {
		name = pod.Name
		if len(name) > hostNameMax {
			name = strings.TrimRight(name[:hostNameMax], "-.")
		}
	}
	if pod.Spec.Subdomain != "" {
		domain = pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + w.manager.ClusterDomain
	}
	return name, domain
}

// sandboxConfig turns a pod into the configuration of its sandbox.
func (w *worker) sandboxConfig(ctx context.Context, pod *corev1.Pod) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := w.manager.DNS(ctx, pod)
	if err != nil {
		return nil, fmt.Errorf("configuring DNS: %w", err)
	}
	identity, err := security.Sandbox(pod)
	if err != nil {
		return nil, err
	}
	sysctls, err := security.Sysctls(pod)
	if err != nil {
		return nil, err
	}
	name, domain := w.hostname(pod)
	if domain != "" && pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		if name += "." + domain; len(name) > hostNameMax+1 {
			return nil, fmt.Errorf("host name %q is longer than %d characters and setHostnameAsFQDN is set", name, hostNameMax+1)
		}
	}
	labels := maps.Clone(pod.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, podLabels(pod))
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID)},
		Labels:   labels, Annotations: maps.Clone(pod.Annotations), DnsConfig: dns,
		LogDirectory: w.manager.logDir(pod.Namespace, pod.Name, pod.UID),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: resources.CgroupParent(w.manager.CgroupRoot, pod), SecurityContext: identity, Sysctls: sysctls,
			Overhead: resources.Overhead(pod), Resources: resources.Sandbox(pod),
		},
	}
	// With the host's network the host name is the machine's and must not be set.
	if !pod.Spec.HostNetwork {
		config.Hostname = name
		config.PortMappings = portMappings(pod)
	}
	return config, nil
}

// services are those that a pod's containers find in their environment.
func (w *worker) services(ctx context.Context, pod *corev1.Pod) func() ([]*corev1.Service, error) {
	if w.manager.Services == nil {
		return nil
	}
	return func() ([]*corev1.Service, error) { return w.manager.Services(ctx, pod.Namespace) }
}

func podLabels(pod *corev1.Pod) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel: pod.Name, kubelettypes.KubernetesPodNamespaceLabel: pod.Namespace,
		kubelettypes.KubernetesPodUIDLabel: string(pod.UID),
	}
}

func portMappings(pod *corev1.Pod) []*runtimeapi.PortMapping {
	var mappings []*runtimeapi.PortMapping
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.HostPort == 0 {
				continue
			}
			protocol := runtimeapi.Protocol_TCP
			switch port.Protocol {
			case corev1.ProtocolUDP:
				protocol = runtimeapi.Protocol_UDP
			case corev1.ProtocolSCTP:
				protocol = runtimeapi.Protocol_SCTP
			}
			mappings = append(mappings, &runtimeapi.PortMapping{
				Protocol: protocol, ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP,
			})
		}
	}
	return mappings
}

// containerConfig turns a container into its configuration. cleanup is called once it has been started, or
// has failed to; it is never nil.
func (w *worker) containerConfig(ctx context.Context, p *pass, container *corev1.Container, image *agent.Image, attempt uint32) (config *runtimeapi.ContainerConfig, cleanup func(), err error) {
	nothing := func() {}
	pod := p.pod
	environment, err := env.Make(ctx, pod, container, env.Sources{
		Objects: w.manager.Objects, Services: w.services(ctx, pod), PodIPs: p.podIPs(), HostIPs: w.manager.hostIPs(),
		Allocatable: w.manager.Node().Status.Allocatable, VolumePaths: paths(p.volumes),
	})
	if err != nil {
		return nil, nothing, err
	}
	user := security.ImageUser{UID: image.UID, Name: image.Username}
	if image.UID == nil && image.Username == "" {
		user.UID = new(int64)
	}
	if err := security.VerifyNonRoot(pod, container, user); err != nil {
		return nil, nothing, err
	}
	identity, err := security.Container(pod, container, user, w.manager.SeccompDir)
	if err != nil {
		return nil, nothing, err
	}
	hostname, domain := w.hostname(pod)
	mounts, cleanup, err := w.manager.Volumes.Mounts(pod, container, volumes.ContainerOptions{
		Volumes: p.volumes, Env: environment, PodIPs: p.podIPs(), Hostname: hostname, Domain: domain,
	})
	if cleanup == nil {
		cleanup = nothing
	}
	if err != nil {
		return nil, cleanup, err
	}
	if container.TerminationMessagePath != "" {
		path, err := w.makeTerminationFile(pod, container.Name, attempt)
		if err != nil {
			return nil, cleanup, err
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: container.TerminationMessagePath, HostPath: path})
	}
	if err := os.MkdirAll(filepath.Join(w.manager.logDir(pod.Namespace, pod.Name, pod.UID), container.Name), 0o755); err != nil {
		return nil, cleanup, err
	}
	command, args := env.Command(container, environment)
	labels := podLabels(pod)
	labels[kubelettypes.KubernetesContainerNameLabel] = container.Name
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: container.Name, Attempt: attempt},
		Image:    &runtimeapi.ImageSpec{Image: image.Ref, UserSpecifiedImage: container.Image},
		Command:  command, Args: args, WorkingDir: container.WorkingDir, Envs: env.KeyValues(environment), Mounts: mounts,
		Labels: labels, Annotations: annotations(container, attempt), LogPath: filepath.Join(container.Name, fmt.Sprintf("%d.log", attempt)),
		Stdin: container.Stdin, StdinOnce: container.StdinOnce, Tty: container.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: resources.Container(pod, container, w.manager.MachineMemory), SecurityContext: identity,
		},
	}, cleanup, nil
}

// annotations are what an agent that starts later wants to know of a container whose pod may be gone.
func annotations(container *corev1.Container, attempt uint32) map[string]string {
	return map[string]string{
		hashAnnotation:                                     hashOf(container),
		"io.kubernetes.container.restartCount":             strconv.FormatUint(uint64(attempt), 10),
		"io.kubernetes.container.terminationMessagePath":   container.TerminationMessagePath,
		"io.kubernetes.container.terminationMessagePolicy": string(container.TerminationMessagePolicy),
	}
}

func paths(mounted map[string]volumes.Volume) map[string]string {
	found := make(map[string]string, len(mounted))
	for name, volume := range mounted {
		found[name] = volume.Path
	}
	return found
}
