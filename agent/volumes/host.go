package volumes

import (
	"context"
	"errors"
	"path/filepath"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/mount-utils"
)

// host is what upstream's volume plugins take for kubelet, during one call for one pod.
type host struct {
	ctx     context.Context
	manager *Manager
	pod     *corev1.Pod
}

var _ volume.KubeletVolumeHost = &host{}
var _ volume.VolumeHost = &host{}

var errUnsupported = errors.New("not supported")

func (h *host) GetPodsDir() string { return h.manager.config.PodsDir }

func (h *host) GetPodVolumeDir(pod types.UID, plugin, name string) string {
	return filepath.Join(h.manager.podDir(pod), volumesDir, plugin, name)
}

func (h *host) GetPodPluginDir(pod types.UID, plugin string) string {
	return filepath.Join(h.manager.podDir(pod), pluginsDir, plugin)
}

func (h *host) GetMounter() mount.Interface { return h.manager.mounter }

func (h *host) GetSubpather() subpath.Interface { return h.manager.subpather }

func (h *host) GetHostUtil() hostutil.HostUtils { return hostutil.NewHostUtil() }

func (h *host) GetNodeName() types.NodeName { return types.NodeName(h.manager.config.NodeName) }

func (h *host) GetNodeAllocatable() (corev1.ResourceList, error) {
	return h.manager.config.Allocatable(), nil
}

// NewWrapperMounter serves plugins that fill an emptyDir with files.
func (h *host) NewWrapperMounter(name string, spec volume.Spec, pod *corev1.Pod) (volume.Mounter, error) {
	return newEmptyDir(h, name, pod, spec.Volume.EmptyDir), nil
}

func (h *host) NewWrapperUnmounter(name string, _ volume.Spec, pod types.UID) (volume.Unmounter, error) {
	return newEmptyDir(h, name, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod}}, nil), nil
}

// The plugins ask by namespace and name; the broker answers per pod, and its pod's namespace is the only
// one that a plugin ever asks for.

func (h *host) GetSecretFunc() func(namespace, name string) (*corev1.Secret, error) {
	return func(_, name string) (*corev1.Secret, error) {
		object, err := h.manager.config.Objects.Secret(h.ctx, h.pod.UID, name)
		return object, missing(err, "secret", name)
	}
}

func (h *host) GetConfigMapFunc() func(namespace, name string) (*corev1.ConfigMap, error) {
	return func(_, name string) (*corev1.ConfigMap, error) {
		object, err := h.manager.config.Objects.ConfigMap(h.ctx, h.pod.UID, name)
		return object, missing(err, "configmap", name)
	}
}

func (h *host) GetServiceAccountTokenFunc() func(namespace, name string, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	return func(_, _ string, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
		return h.manager.tokens.get(h.ctx, h.pod.UID, request)
	}
}

func (h *host) DeleteServiceAccountTokenFunc() func(types.UID) { return h.manager.tokens.forget }

// missing words a NotFound as kubelet does, whatever the broker called the resource.
func missing(err error, resource, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(corev1.Resource(resource), name)
	}
	return err
}

// GetKubeClient returns a client that is only there: plugins refuse to work without one, and use it for
// nothing.
func (h *host) GetKubeClient() clientset.Interface { return &clientset.Clientset{} }

// What only other kinds of volumes ask for.

func (h *host) GetPluginDir(string) string                          { return "" }
func (h *host) GetVolumeDevicePluginDir(string) string              { return "" }
func (h *host) GetPodVolumeDeviceDir(types.UID, string) string      { return "" }
func (h *host) GetNodeLabels() (map[string]string, error)           { return nil, errUnsupported }
func (h *host) GetEventRecorder() record.EventRecorder              { return nil }
func (h *host) SetKubeletError(error)                               {}
func (h *host) GetInformerFactory() informers.SharedInformerFactory { return nil }
func (h *host) CSIDriverLister() storagelisters.CSIDriverLister     { return nil }
func (h *host) CSIDriversSynced() cache.InformerSynced              { return nil }
func (h *host) WaitForCacheSync() error                             { return errUnsupported }
func (h *host) GetTrustAnchorsByName(string, bool) ([]byte, error)  { return nil, errUnsupported }
func (h *host) GetAttachedVolumesFromNodeStatus() (map[corev1.UniqueVolumeName]string, error) {
	return nil, errUnsupported
}
func (h *host) GetTrustAnchorsBySigner(string, *metav1.LabelSelector, bool) ([]byte, error) {
	return nil, errUnsupported
}
func (h *host) GetPodCertificateCredentialBundle(context.Context, string, string, string, string, int) ([]byte, []byte, error) {
	return nil, nil, errUnsupported
}
