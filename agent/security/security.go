package security

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/security/apparmor"
	"k8s.io/kubernetes/pkg/securitycontext"
)

// Sandbox returns the security context of the pod's sandbox. The sandbox itself always runs under the
// runtime's default seccomp profile, so that a pod may choose the strictest one for its containers.
func Sandbox(pod *corev1.Pod) (*runtimeapi.LinuxSandboxSecurityContext, error) {
	result := &runtimeapi.LinuxSandboxSecurityContext{
		Privileged:       privileged(pod),
		Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		NamespaceOptions: namespaces(pod),
	}
	podContext := pod.Spec.SecurityContext
	if podContext == nil {
		return result, nil
	}
	result.RunAsUser, result.RunAsGroup = int64Value(podContext.RunAsUser), int64Value(podContext.RunAsGroup)
	result.SelinuxOptions = selinux(podContext.SELinuxOptions)
	var err error
	result.SupplementalGroups, result.SupplementalGroupsPolicy, err = groups(podContext)
	return result, err
}

// Container returns the security context of one container. Localhost seccomp profiles are looked for
// under seccompRoot. VerifyNonRoot is not part of it.
func Container(pod *corev1.Pod, container *corev1.Container, user ImageUser, seccompRoot string) (*runtimeapi.LinuxContainerSecurityContext, error) {
	effective := securitycontext.DetermineEffectiveSecurityContext(pod, container)
	result := &runtimeapi.LinuxContainerSecurityContext{
		Capabilities:     capabilities(effective.Capabilities),
		Privileged:       effective.Privileged != nil && *effective.Privileged,
		ReadonlyRootfs:   effective.ReadOnlyRootFilesystem != nil && *effective.ReadOnlyRootFilesystem,
		RunAsUser:        int64Value(effective.RunAsUser),
		RunAsGroup:       int64Value(effective.RunAsGroup),
		SelinuxOptions:   selinux(effective.SELinuxOptions),
		NoNewPrivs:       securitycontext.AddNoNewPrivileges(effective),
		MaskedPaths:      securitycontext.ConvertToRuntimeMaskedPaths(effective.ProcMount),
		ReadonlyPaths:    securitycontext.ConvertToRuntimeReadonlyPaths(effective.ProcMount),
		NamespaceOptions: namespaces(pod),
	}
	if result.RunAsUser == nil {
		result.RunAsUser, result.RunAsUsername = int64Value(user.UID), user.Name
	}
	var err error
	if result.Seccomp, err = seccomp(pod, container, seccompRoot); err != nil {
		return nil, err
	}
	if result.Apparmor, err = appArmor(pod, container); err != nil {
		return nil, err
	}
	if pod.Spec.SecurityContext != nil {
		result.SupplementalGroups, result.SupplementalGroupsPolicy, err = groups(pod.Spec.SecurityContext)
	}
	return result, err
}

// privileged tells whether any container of the pod is privileged: the sandbox must then be, too.
func privileged(pod *corev1.Pod) bool {
	is := func(list []corev1.Container) bool {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
				return true
			}
		}
		return false
	}
	return is(pod.Spec.InitContainers) || is(pod.Spec.Containers)
}

func namespaces(pod *corev1.Pod) *runtimeapi.NamespaceOption {
	options := &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_POD,
		Ipc:     runtimeapi.NamespaceMode_POD,
		Pid:     runtimeapi.NamespaceMode_CONTAINER,
	}
	if pod.Spec.HostNetwork {
		options.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		options.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		options.Pid = runtimeapi.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		options.Pid = runtimeapi.NamespaceMode_POD
	}
	return options
}

// groups are the fsGroup and the supplemental groups, which every process of the pod belongs to.
func groups(podContext *corev1.PodSecurityContext) ([]int64, runtimeapi.SupplementalGroupsPolicy, error) {
	var list []int64
	if podContext.FSGroup != nil {
		list = append(list, *podContext.FSGroup)
	}
	list = append(list, podContext.SupplementalGroups...)
	policy := runtimeapi.SupplementalGroupsPolicy_Merge
	if wanted := podContext.SupplementalGroupsPolicy; wanted != nil {
		value, known := runtimeapi.SupplementalGroupsPolicy_value[string(*wanted)]
		if !known {
			return nil, policy, fmt.Errorf("unsupported supplementalGroupsPolicy: %s", *wanted)
		}
		policy = runtimeapi.SupplementalGroupsPolicy(value)
	}
	return list, policy, nil
}

func capabilities(wanted *corev1.Capabilities) *runtimeapi.Capability {
	if wanted == nil {
		return nil
	}
	result := &runtimeapi.Capability{}
	for _, name := range wanted.Add {
		result.AddCapabilities = append(result.AddCapabilities, string(name))
	}
	for _, name := range wanted.Drop {
		result.DropCapabilities = append(result.DropCapabilities, string(name))
	}
	return result
}

func selinux(wanted *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if wanted == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: wanted.User, Role: wanted.Role, Type: wanted.Type, Level: wanted.Level}
}

func appArmor(pod *corev1.Pod, container *corev1.Container) (*runtimeapi.SecurityProfile, error) {
	profile := apparmor.GetProfile(pod, container)
	if profile == nil {
		return nil, nil
	}
	switch profile.Type {
	case corev1.AppArmorProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case corev1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case corev1.AppArmorProfileTypeLocalhost:
		if profile.LocalhostProfile == nil {
			return nil, errors.New("missing localhost apparmor profile name")
		}
		return &runtimeapi.SecurityProfile{
			ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *profile.LocalhostProfile,
		}, nil
	default:
		return nil, fmt.Errorf("unknown apparmor profile type: %q", profile.Type)
	}
}

func int64Value(value *int64) *runtimeapi.Int64Value {
	if value == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *value}
}
