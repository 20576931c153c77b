package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
	utilstrings "k8s.io/utils/strings"
)

const emptyDirName = "kubernetes.io/empty-dir"

// emptyDirPlugin is upstream's plugin of that name as far as pods can see: quotas of project ids and huge
// pages are left out.
type emptyDirPlugin struct{ host *host }

var _ volume.VolumePlugin = &emptyDirPlugin{}

func (p *emptyDirPlugin) Init(h volume.VolumeHost) error                         { p.host = h.(*host); return nil }
func (p *emptyDirPlugin) GetPluginName() string                                  { return emptyDirName }
func (p *emptyDirPlugin) GetVolumeName(spec *volume.Spec) (string, error)        { return spec.Name(), nil }
func (p *emptyDirPlugin) RequiresRemount(*volume.Spec) bool                      { return false }
func (p *emptyDirPlugin) SupportsMountOption() bool                              { return false }
func (p *emptyDirPlugin) SupportsSELinuxContextMount(*volume.Spec) (bool, error) { return false, nil }

func (p *emptyDirPlugin) CanSupport(spec *volume.Spec) bool {
	return spec.Volume != nil && spec.Volume.EmptyDir != nil
}

func (p *emptyDirPlugin) NewMounter(spec *volume.Spec, pod *corev1.Pod) (volume.Mounter, error) {
	return newEmptyDir(p.host, spec.Name(), pod, spec.Volume.EmptyDir), nil
}

func (p *emptyDirPlugin) NewUnmounter(name string, pod types.UID) (volume.Unmounter, error) {
	return p.host.NewWrapperUnmounter(name, volume.Spec{}, pod)
}

func (p *emptyDirPlugin) ConstructVolumeSpec(string, string) (volume.ReconstructedVolume, error) {
	return volume.ReconstructedVolume{}, errUnsupported
}

// emptyDir is one directory, on disk or in memory, that lives as long as its pod. Secrets and other files
// are written into one, too.
type emptyDir struct {
	volume.MetricsNil
	host   *host
	name   string
	pod    *corev1.Pod
	source *corev1.EmptyDirVolumeSource
}

func newEmptyDir(h *host, name string, pod *corev1.Pod, source *corev1.EmptyDirVolumeSource) *emptyDir {
	if source == nil {
		source = &corev1.EmptyDirVolumeSource{}
	}
	return &emptyDir{host: h, name: name, pod: pod, source: source}
}

func (e *emptyDir) GetAttributes() volume.Attributes {
	return volume.Attributes{Managed: true, SELinuxRelabel: true}
}

func (e *emptyDir) GetPath() string {
	return e.host.GetPodVolumeDir(e.pod.UID, utilstrings.EscapeQualifiedName(emptyDirName), e.name)
}

func (e *emptyDir) SetUp(arguments volume.MounterArgs) error {
	return e.SetUpAt(e.GetPath(), arguments)
}

// SetUpAt makes the directory and hands it to the pod's group. A marker beside the volume tells a
// finished directory from one that a killed agent left half made.
func (e *emptyDir) SetUpAt(dir string, arguments volume.MounterArgs) error {
	mounted, err := isMounted(dir)
	if err != nil {
		return err
	}
	memory := e.source.Medium == corev1.StorageMediumMemory
	if volumeutil.IsReady(e.marker()) && exists(dir) && mounted == memory {
		return nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	switch e.source.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		if !mounted {
			if err := e.mountMemory(dir); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("storage medium %q is not implemented", e.source.Medium)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // whatever the umask
		return err
	}
	plugin := &emptyDirPlugin{host: e.host}
	ownership := volume.NewVolumeOwnership(e, dir, arguments.FsGroup, nil, volumeutil.FSGroupCompleteHook(plugin, nil))
	if err := ownership.ChangePermissions(); err != nil {
		return err
	}
	volumeutil.SetReady(e.marker())
	return nil
}

// mountMemory mounts a tmpfs that, where the kernel knows how, is never swapped out.
func (e *emptyDir) mountMemory(dir string) error {
	options := []string{"size=" + strconv.FormatInt(e.size(), 10)}
	err := e.host.manager.mounter.Mount("tmpfs", dir, "tmpfs", append(options, "noswap"))
	if errors.Is(err, unix.EINVAL) {
		err = e.host.manager.mounter.Mount("tmpfs", dir, "tmpfs", options)
	}
	return err
}

// size is the least of the volume's limit, the pod's memory limit and the node's allocatable memory, in
// bytes. A pod has a memory limit only where every container has one.
func (e *emptyDir) size() int64 {
	allocatable := e.host.manager.config.Allocatable()
	size := allocatable.Memory().DeepCopy()
	limited := true
	limits := resourcehelper.PodLimits(e.pod, resourcehelper.PodResourcesOptions{
		ContainerFn: func(list corev1.ResourceList, _ resourcehelper.ContainerType) {
			limited = limited && !list.Memory().IsZero()
		},
	})
	if resourcehelper.IsPodLevelLimitsSet(e.pod) && !e.pod.Spec.Resources.Limits.Memory().IsZero() {
		limited = true
	}
	lower := func(limit *resource.Quantity) {
		if limit != nil && limit.Sign() > 0 && (limit.Cmp(size) < 0 || size.IsZero()) {
			size = limit.DeepCopy()
		}
	}
	if limited {
		lower(limits.Memory())
	}
	lower(e.source.SizeLimit)
	return size.Value()
}

func (e *emptyDir) TearDown() error { return e.TearDownAt(e.GetPath()) }

// TearDownAt undoes SetUpAt. The marker goes first, so that what is half gone is not taken for ready.
func (e *emptyDir) TearDownAt(dir string) error {
	if err := os.RemoveAll(e.marker()); err != nil {
		return err
	}
	return removeTree(e.host.manager.mounter, dir)
}

// marker is the directory that holds the file "ready", where kubelet has it.
func (e *emptyDir) marker() string {
	return filepath.Join(e.host.GetPodPluginDir(e.pod.UID, utilstrings.EscapeQualifiedName(emptyDirName)), e.name)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
