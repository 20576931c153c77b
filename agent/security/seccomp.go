package security

import (
	"errors"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// seccomp is the container's profile, else the pod's, else none: upstream's default, too.
func seccomp(pod *corev1.Pod, container *corev1.Container, root string) (*runtimeapi.SecurityProfile, error) {
	var profile *corev1.SeccompProfile
	if pod.Spec.SecurityContext != nil {
		profile = pod.Spec.SecurityContext.SeccompProfile
	}
	if sc := container.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		profile = sc.SeccompProfile
	}
	result := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	switch {
	case profile == nil:
	case profile.Type == corev1.SeccompProfileTypeRuntimeDefault:
		result.ProfileType = runtimeapi.SecurityProfile_RuntimeDefault
	case profile.Type == corev1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
			return nil, errors.New("localhostProfile must be set if seccompProfile type is Localhost")
		}
		result.ProfileType = runtimeapi.SecurityProfile_Localhost
		result.LocalhostRef = filepath.Join(root, *profile.LocalhostProfile)
	}
	return result, nil
}
