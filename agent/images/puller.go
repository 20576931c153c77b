package images

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/kubernetes/pkg/credentialprovider"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	upstream "k8s.io/kubernetes/pkg/kubelet/images"
	"k8s.io/kubernetes/pkg/kubelet/images/pullmanager"
	"k8s.io/utils/ptr"

	"drayage.dev/agent"
)

// Config is what a Puller needs.
type Config struct {
	// Images is the runtime's image service.
	Images runtimeapi.ImageServiceClient
	// Recorder publishes kubelet's events (Pulling, Pulled, Failed, BackOff).
	Recorder record.EventRecorder
	// Ref names a container of a pod as the object of an event.
	Ref func(pod *corev1.Pod, container *corev1.Container) *corev1.ObjectReference
	// Backoff and MaxBackoff are the first and the longest wait after a failed pull: 10 s and 300 s
	// when zero, as kubelet's.
	Backoff, MaxBackoff time.Duration
	// Parallel bounds the pulls at a time; 4 when zero.
	Parallel int32
}

// Puller is a node's image puller. It is safe for concurrent use.
type Puller struct {
	config  Config
	manager upstream.ImageManager
	backoff *flowcontrol.Backoff
}

var _ agent.Images = (*Puller)(nil)

// New returns a Puller.
func New(config Config) *Puller {
	if config.Backoff == 0 {
		config.Backoff = 10 * time.Second
	}
	if config.MaxBackoff == 0 {
		config.MaxBackoff = 300 * time.Second
	}
	if config.Parallel == 0 {
		config.Parallel = 4
	}
	backoff := flowcontrol.NewBackOff(config.Backoff, config.MaxBackoff)
	manager := upstream.NewImageManager(config.Recorder, credentialprovider.UnionDockerKeyring{}, store{client: config.Images},
		&pullmanager.NoopImagePullManager{}, backoff, false, ptr.To(config.Parallel), 0, 0, nobody{})
	return &Puller{config: config, manager: manager, backoff: backoff}
}

// Ensure implements agent.Images.
func (p *Puller) Ensure(ctx context.Context, request agent.ImageRequest) (*agent.Image, error) {
	pod, container := request.Pod, request.Container
	ref, message, err := p.manager.EnsureImageExists(ctx, p.config.Ref(pod, container), pod, container.Image, request.Secrets,
		request.Sandbox, "", container.ImagePullPolicy)
	if err != nil {
		// Upstream's errors are the reasons by name.
		failure := &agent.ImageError{Reason: err.Error(), Message: message}
		if wait := p.backoff.Get(fmt.Sprintf("%s_%s", pod.UID, withTag(container.Image))); wait > 0 {
			failure.Retry = p.backoff.Clock.Now().Add(wait)
		}
		return nil, failure
	}
	answer, err := p.config.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil || answer.Image == nil {
		return nil, &agent.ImageError{Reason: upstream.ErrImageInspect.Error(), Message: fmt.Sprintf("Failed to inspect image %q: %v", ref, err)}
	}
	image := &agent.Image{ID: answer.Image.Id, Ref: ref, Username: answer.Image.Username}
	if answer.Image.Uid != nil {
		image.UID = ptr.To(answer.Image.Uid.Value)
	}
	return image, nil
}

// nobody is told how long pods pull: upstream's manager asks for someone.
type nobody struct{}

func (nobody) RecordImageStartedPulling(types.UID)  {}
func (nobody) RecordImageFinishedPulling(types.UID) {}

// store is the runtime's image service as upstream's manager wants it.
type store struct {
	kubecontainer.ImageService
	client runtimeapi.ImageServiceClient
}

// PullImage tries the credentials in order; without any it asks anonymously.
func (s store) PullImage(ctx context.Context, image kubecontainer.ImageSpec, credentials []credentialprovider.TrackedAuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, *credentialprovider.TrackedAuthConfig, error) {
	request := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image.Image}, SandboxConfig: sandbox}
	if len(credentials) == 0 {
		answer, err := s.client.PullImage(ctx, request)
		return answer.GetImageRef(), nil, message(err)
	}
	var last error
	for _, credential := range credentials {
		request.Auth = &runtimeapi.AuthConfig{
			Username: credential.Username, Password: credential.Password, Auth: credential.Auth,
			ServerAddress: credential.ServerAddress, IdentityToken: credential.IdentityToken, RegistryToken: credential.RegistryToken,
		}
		answer, err := s.client.PullImage(ctx, request)
		if err == nil {
			return answer.ImageRef, &credential, nil
		}
		last = err
	}
	return "", nil, message(last)
}

// GetImageRef returns the id under which a container is created from the image; empty when it is absent.
func (s store) GetImageRef(ctx context.Context, image kubecontainer.ImageSpec) (string, error) {
	answer, err := s.client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image.Image}})
	return answer.GetImage().GetId(), message(err)
}

// GetImageSize returns the image's size on disk in bytes.
func (s store) GetImageSize(ctx context.Context, image kubecontainer.ImageSpec) (uint64, error) {
	answer, err := s.client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image.Image}})
	return answer.GetImage().GetSize(), message(err)
}
