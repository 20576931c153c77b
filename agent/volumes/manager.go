package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/downwardapi"
	"k8s.io/kubernetes/pkg/volume/hostpath"
	"k8s.io/kubernetes/pkg/volume/projected"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/utils/clock"
)

// Objects gives access to what pods of this node may read. An object that does not exist is an API
// error for which apierrors.IsNotFound holds.
type Objects interface {
	Secret(ctx context.Context, pod types.UID, name string) (*corev1.Secret, error)
	ConfigMap(ctx context.Context, pod types.UID, name string) (*corev1.ConfigMap, error)
	// Token mints a token of the pod's service account.
	Token(ctx context.Context, pod types.UID, request *authv1.TokenRequest) (*authv1.TokenRequest, error)
}

// Config is what a Manager needs to know of its node.
type Config struct {
	// PodsDir holds a directory per pod, named by its UID.
	PodsDir string
	// Objects is where ConfigMaps, Secrets and tokens come from.
	Objects Objects
	// NodeName is the node's name.
	NodeName string
	// Allocatable returns the node's allocatable resources: the default of resourceFieldRef and the
	// upper bound of memory-backed volumes.
	Allocatable func() corev1.ResourceList
	// Clock tells the time for token renewal; the real one when nil.
	Clock clock.PassiveClock
}

// Volume is a volume of a pod that is ready to be mounted into containers.
type Volume struct {
	// Path is where the volume is on the node.
	Path string
	// ReadOnly says that containers may only read it (configMap, secret, downwardAPI, projected).
	ReadOnly bool
	// Managed says that the volume is the pod's own and not a directory of the host's.
	Managed bool
}

// Manager mounts, refreshes and unmounts the volumes of this node's pods. It is safe for concurrent use;
// calls for one pod must not overlap.
type Manager struct {
	config    Config
	mounter   mounter
	subpather subpath.Interface
	tokens    *tokens
}

// New returns a Manager. It touches nothing yet.
func New(config Config) *Manager {
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	mounter := newMounter()
	return &Manager{
		config:    config,
		mounter:   mounter,
		subpather: subpath.New(mounter),
		tokens:    newTokens(config.Objects, config.Clock),
	}
}

// Mount makes every volume that a container of the pod mounts ready and returns them by name. Called
// again it changes nothing that is in place, except that ConfigMaps, Secrets, downward API files and
// tokens are brought up to date.
//
// Errors are worded as kubelet's FailedMount events are and name the volume and the object:
// `MountVolume.SetUp failed for volume "x" : configmap "y" not found`. Several are joined, each of them
// a line, and can be told apart by `Unwrap() []error`.
func (m *Manager) Mount(ctx context.Context, pod *corev1.Pod) (map[string]Volume, error) {
	for _, name := range []string{volumesDir, pluginsDir} {
		if err := os.MkdirAll(filepath.Join(m.podDir(pod.UID), name), 0o750); err != nil {
			return nil, err
		}
	}
	mounted := map[string]Volume{}
	err := m.setUp(ctx, pod, func(volume.VolumePlugin, *volume.Spec) bool { return true },
		func(name string, v Volume) { mounted[name] = v })
	if err != nil {
		return nil, err
	}
	return mounted, nil
}

// Refresh brings ConfigMaps, Secrets, downward API files and tokens of a mounted pod up to date. It
// returns when the pod's next token wants renewal, or the zero time when it has none; the caller calls
// again then, when an object that the pod refers to has changed, and when the pod's metadata has. What
// cannot be brought up to date keeps its last contents, and the error says why.
func (m *Manager) Refresh(ctx context.Context, pod *corev1.Pod) (time.Time, error) {
	err := m.setUp(ctx, pod, volume.VolumePlugin.RequiresRemount, func(string, Volume) {})
	return m.tokens.renewal(pod.UID), err
}

// setUp sets up the pod's volumes that are wanted; one that fails does not stop the others.
func (m *Manager) setUp(ctx context.Context, pod *corev1.Pod, want func(volume.VolumePlugin, *volume.Spec) bool, done func(string, Volume)) error {
	plugins, err := m.plugins(ctx, pod)
	if err != nil {
		return err
	}
	arguments := volume.MounterArgs{FsUser: volumeutil.FsUserFrom(pod)}
	if pod.Spec.SecurityContext != nil {
		arguments.FsGroup = pod.Spec.SecurityContext.FSGroup
	}
	used, _, _ := volumeutil.GetPodVolumeNames(pod, false)
	var failures []error
	for i := range pod.Spec.Volumes {
		spec := volume.NewSpecFromVolume(&pod.Spec.Volumes[i])
		if !used.Has(spec.Name()) {
			continue
		}
		plugin := pluginFor(plugins, spec)
		if plugin == nil {
			failures = append(failures, fmt.Errorf("MountVolume.SetUp failed for volume %q : no volume plugin matched", spec.Name()))
			continue
		}
		if !want(plugin, spec) {
			continue
		}
		mounter, err := plugin.NewMounter(spec, pod)
		if err == nil {
			err = mounter.SetUp(arguments)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", spec.Name(), err))
			continue
		}
		attributes := mounter.GetAttributes()
		done(spec.Name(), Volume{Path: mounter.GetPath(), ReadOnly: attributes.ReadOnly, Managed: attributes.Managed})
	}
	if len(failures) == 1 {
		return failures[0]
	}
	return errors.Join(failures...)
}

// plugins returns upstream's plugins and our emptyDir, hosted for one call for one pod: so they carry
// the caller's context, and reads are made in the pod's name.
func (m *Manager) plugins(ctx context.Context, pod *corev1.Pod) ([]volume.VolumePlugin, error) {
	host := &host{ctx: ctx, manager: m, pod: pod}
	list := []volume.VolumePlugin{&emptyDirPlugin{}}
	list = append(list, configmap.ProbeVolumePlugins()...)
	list = append(list, secret.ProbeVolumePlugins()...)
	list = append(list, downwardapi.ProbeVolumePlugins()...)
	list = append(list, projected.ProbeVolumePlugins()...)
	list = append(list, hostpath.ProbeVolumePlugins(volume.VolumeConfig{})...)
	for _, plugin := range list {
		if err := plugin.Init(host); err != nil {
			return nil, fmt.Errorf("starting volume plugin %s: %w", plugin.GetPluginName(), err)
		}
	}
	return list, nil
}

func pluginFor(plugins []volume.VolumePlugin, spec *volume.Spec) volume.VolumePlugin {
	for _, plugin := range plugins {
		if plugin.CanSupport(spec) {
			return plugin
		}
	}
	return nil
}

// Directories below a pod's, named as kubelet names them.
const (
	volumesDir  = "volumes"
	pluginsDir  = "plugins"
	subpathsDir = "volume-subpaths"
	hostsFile   = "etc-hosts"
)

func (m *Manager) podDir(pod types.UID) string { return filepath.Join(m.config.PodsDir, string(pod)) }
