package security

import (
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageUser is the user that an image runs as by itself.
type ImageUser struct {
	// UID is nil when the image names its user by name, or not at all.
	UID *int64
	// Name is set when the image names its user by name.
	Name string
}

// UserOf returns the user of an image as the runtime reports it. An image without a user runs as root.
func UserOf(image *runtimeapi.Image) ImageUser { panic("not implemented") }

// Sandbox returns the security context of the pod's sandbox.
func Sandbox(pod *corev1.Pod) (*runtimeapi.LinuxSandboxSecurityContext, error) {
	panic("not implemented")
}

// Container returns the security context of one container. Localhost seccomp profiles are looked for
// under seccompRoot. VerifyNonRoot is not part of it.
func Container(pod *corev1.Pod, container *corev1.Container, user ImageUser, seccompRoot string) (*runtimeapi.LinuxContainerSecurityContext, error) {
	panic("not implemented")
}

// VerifyNonRoot refuses a container that demands a user other than root and would run as root, or of
// which that cannot be told. The texts are kubelet's; the container waits with CreateContainerConfigError.
func VerifyNonRoot(pod *corev1.Pod, container *corev1.Container, user ImageUser) error {
	panic("not implemented")
}

// Sysctls returns the kernel parameters that the pod sets. It refuses those that upstream does not count
// as safe, and those that need a namespace which the pod shares with the host; the pod then fails with
// reason SysctlForbidden.
func Sysctls(pod *corev1.Pod) (map[string]string, error) { panic("not implemented") }
