package security

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/kubelet/util/format"
	"k8s.io/kubernetes/pkg/securitycontext"
)

// ImageUser is the user that an image runs as by itself. An image that names none, which is the zero
// value, runs as root.
type ImageUser struct {
	// UID is nil when the image names its user by name.
	UID *int64
	// Name is set when the image names its user by name.
	Name string
}

// UserOf returns the user of an image as the runtime reports it. An image without a user runs as root.
func UserOf(image *runtimeapi.Image) ImageUser {
	switch {
	case image.GetUid() != nil:
		return ImageUser{UID: &image.GetUid().Value}
	case image.GetUsername() != "":
		return ImageUser{Name: image.GetUsername()}
	default:
		return ImageUser{UID: new(int64)}
	}
}

// VerifyNonRoot refuses a container that demands a user other than root and would run as root, or of
// which that cannot be told. The texts are kubelet's; the container waits with CreateContainerConfigError.
func VerifyNonRoot(pod *corev1.Pod, container *corev1.Container, user ImageUser) error {
	effective := securitycontext.DetermineEffectiveSecurityContext(pod, container)
	if effective.RunAsNonRoot == nil || !*effective.RunAsNonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", format.Pod(pod), container.Name)
	if effective.RunAsUser != nil {
		if *effective.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	switch {
	case user.UID == nil && user.Name != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user.Name, where)
	case user.UID == nil, *user.UID == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	}
	if problems := validation.IsValidUserID(*user.UID); len(problems) > 0 {
		return fmt.Errorf("container has runAsNonRoot and image has an invalid user id (%d). (Must be 1-(%d)): %s %s",
			*user.UID, math.MaxInt32, strings.Join(problems, "; "), where)
	}
	return nil
}
