package volumes_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"drayage.dev/agent/volumes"
)

// fixture is a node with one pod whose only container mounts every volume at /<name>.
type fixture struct {
	manager *volumes.Manager
	config  volumes.Config
	store   *objects
	clock   *clocktesting.FakePassiveClock
	pod     *corev1.Pod
	dir     string
}

func newFixture() *fixture {
	f := &fixture{dir: GinkgoT().TempDir(), clock: clocktesting.NewFakePassiveClock(time.Now())}
	f.store = &objects{
		now: f.clock.Now, life: time.Hour,
		configMaps: map[string]*corev1.ConfigMap{"settings": {Data: map[string]string{"color": "red", "size": "5"}}},
		secrets:    map[string]*corev1.Secret{"keys": {Data: map[string][]byte{"password": []byte("geheim")}}},
	}
	f.config = volumes.Config{PodsDir: f.dir, Objects: f.store, NodeName: "n1", Clock: f.clock,
		Allocatable: func() corev1.ResourceList {
			return corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"),
			}
		}}
	f.manager = volumes.New(f.config)
	f.pod = &corev1.Pod{Spec: corev1.PodSpec{ServiceAccountName: "robot", Containers: []corev1.Container{{Name: "app"}}}}
	f.pod.Name, f.pod.Namespace, f.pod.UID = "web", "shop", "u1"
	f.pod.Labels = map[string]string{"app": "web"}
	DeferCleanup(func() { Expect(f.manager.Unmount(context.Background(), f.pod.UID)).To(Succeed()) })
	return f
}

func (f *fixture) add(name string, source corev1.VolumeSource) {
	f.pod.Spec.Volumes = append(f.pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	container := &f.pod.Spec.Containers[0]
	container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
}

func (f *fixture) mount() map[string]volumes.Volume {
	GinkgoHelper()
	mounted, err := f.manager.Mount(context.Background(), f.pod)
	Expect(err).NotTo(HaveOccurred())
	return mounted
}

func (f *fixture) mountError() error {
	GinkgoHelper()
	_, err := f.manager.Mount(context.Background(), f.pod)
	Expect(err).To(HaveOccurred())
	return err
}

func content(parts ...string) string {
	GinkgoHelper()
	data, err := os.ReadFile(filepath.Join(parts...))
	Expect(err).NotTo(HaveOccurred())
	return string(data)
}

func stat(path string) (os.FileMode, *syscall.Stat_t) {
	GinkgoHelper()
	info, err := os.Stat(path)
	Expect(err).NotTo(HaveOccurred())
	return info.Mode(), info.Sys().(*syscall.Stat_t)
}

func fsType(path string) int64 {
	GinkgoHelper()
	var s unix.Statfs_t
	Expect(unix.Statfs(path, &s)).To(Succeed())
	return s.Type
}

func tokenSource(path, audience string) corev1.VolumeProjection {
	return corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
		Path: path, Audience: audience, ExpirationSeconds: ptr.To[int64](3600)}}
}

func configMap(name string) *corev1.ConfigMapVolumeSource {
	return &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, DefaultMode: ptr.To[int32](0o644)}
}

var _ = Describe("emptyDir", func() {
	BeforeEach(needRoot)

	It("is open to everybody, keeps its files over a second Mount, and goes with the pod", func() {
		f := newFixture()
		f.add("cache", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		f.pod.Spec.Volumes = append(f.pod.Spec.Volumes, corev1.Volume{Name: "unused",
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		mounted := f.mount()
		Expect(mounted).To(HaveLen(1))
		path := mounted["cache"].Path
		Expect(path).To(Equal(filepath.Join(f.dir, "u1", "volumes", "kubernetes.io~empty-dir", "cache")))
		mode, _ := stat(path)
		Expect(mode.Perm()).To(BeEquivalentTo(0o777))
		Expect(os.WriteFile(filepath.Join(path, "a"), []byte("x"), 0o600)).To(Succeed())

		f.manager = volumes.New(f.config) // a new process
		f.mount()
		Expect(content(path, "a")).To(Equal("x"))
		for range 2 {
			Expect(f.manager.Unmount(context.Background(), "u1")).To(Succeed())
		}
		entries, err := os.ReadDir(filepath.Join(f.dir, "u1"))
		Expect(err).NotTo(HaveOccurred())
		Expect(entries).To(BeEmpty())
	})

	It("belongs to the fsGroup, also what is written later", func() {
		f := newFixture()
		f.pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
		f.add("cache", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		mode, sys := stat(f.mount()["cache"].Path)
		Expect(sys.Gid).To(BeEquivalentTo(2000))
		Expect(mode & os.ModeSetgid).NotTo(BeZero())
	})

	It("lives in memory, within the least of the limits, and survives the agent", func() {
		f := newFixture()
		f.add("small", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("8Mi"))}})
		f.add("pod", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})
		f.pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
		mounted := f.mount()
		size := func(path string) uint64 {
			var s unix.Statfs_t
			Expect(unix.Statfs(path, &s)).To(Succeed())
			return s.Blocks * uint64(s.Bsize)
		}
		Expect(fsType(mounted["small"].Path)).To(BeEquivalentTo(unix.TMPFS_MAGIC))
		Expect(size(mounted["small"].Path)).To(BeEquivalentTo(8 << 20))
		Expect(size(mounted["pod"].Path)).To(BeEquivalentTo(64 << 20))
		mode, _ := stat(mounted["small"].Path)
		Expect(mode.Perm()).To(BeEquivalentTo(0o777))

		Expect(os.WriteFile(filepath.Join(mounted["small"].Path, "a"), []byte("x"), 0o600)).To(Succeed())
		f.manager = volumes.New(f.config)
		f.mount()
		Expect(content(mounted["small"].Path, "a")).To(Equal("x"))
	})

	It("says which medium is not there", func() {
		f := newFixture()
		f.add("huge", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePages}})
		Expect(f.mountError()).To(MatchError(`MountVolume.SetUp failed for volume "huge" : storage medium "HugePages" is not implemented`))
	})
})

var _ = Describe("configMap and secret", func() {
	BeforeEach(needRoot)

	It("shows keys as files, all or some, with their modes, secrets in memory", func() {
		f := newFixture()
		f.add("all", corev1.VolumeSource{ConfigMap: configMap("settings")})
		some := configMap("settings")
		some.Items = []corev1.KeyToPath{{Key: "color", Path: "deep/c", Mode: ptr.To[int32](0o400)}}
		f.add("some", corev1.VolumeSource{ConfigMap: some})
		f.add("keys", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "keys", DefaultMode: ptr.To[int32](0o440)}})
		mounted := f.mount()
		Expect(content(mounted["all"].Path, "size")).To(Equal("5"))
		Expect(mounted["all"].ReadOnly).To(BeTrue())
		Expect(content(mounted["some"].Path, "deep", "c")).To(Equal("red"))
		mode, _ := stat(filepath.Join(mounted["some"].Path, "deep", "c"))
		Expect(mode.Perm()).To(BeEquivalentTo(0o400))
		Expect(content(mounted["keys"].Path, "password")).To(Equal("geheim"))
		mode, _ = stat(filepath.Join(mounted["keys"].Path, "password"))
		Expect(mode.Perm()).To(BeEquivalentTo(0o440))
		Expect(fsType(mounted["keys"].Path)).To(BeEquivalentTo(unix.TMPFS_MAGIC))
	})

	It("follows changes at once, in one step, and keeps the last state when the object goes", func() {
		f := newFixture()
		f.add("all", corev1.VolumeSource{ConfigMap: configMap("settings")})
		path := f.mount()["all"].Path
		before, err := os.Readlink(filepath.Join(path, "..data"))
		Expect(err).NotTo(HaveOccurred())

		next, err := f.manager.Refresh(context.Background(), f.pod)
		Expect(err).NotTo(HaveOccurred())
		Expect(next).To(BeZero())
		Expect(os.Readlink(filepath.Join(path, "..data"))).To(Equal(before))

		f.store.configMaps["settings"] = &corev1.ConfigMap{Data: map[string]string{"color": "blue"}}
		_, err = f.manager.Refresh(context.Background(), f.pod)
		Expect(err).NotTo(HaveOccurred())
		Expect(content(path, "color")).To(Equal("blue"))
		Expect(filepath.Join(path, "size")).NotTo(BeAnExistingFile())

		delete(f.store.configMaps, "settings")
		_, err = f.manager.Refresh(context.Background(), f.pod)
		Expect(err).To(MatchError(`MountVolume.SetUp failed for volume "all" : configmap "settings" not found`))
		Expect(content(path, "color")).To(Equal("blue"))
	})

	It("names what is missing, each by itself, and lets optional ones be", func() {
		f := newFixture()
		f.add("a", corev1.VolumeSource{ConfigMap: configMap("none")})
		f.add("b", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none", DefaultMode: ptr.To[int32](0o644)}})
		key := configMap("settings")
		key.Items = []corev1.KeyToPath{{Key: "none", Path: "x"}}
		f.add("c", corev1.VolumeSource{ConfigMap: key})
		Expect(f.mountError()).To(MatchError(And(
			ContainSubstring(`MountVolume.SetUp failed for volume "a" : configmap "none" not found`),
			ContainSubstring(`MountVolume.SetUp failed for volume "b" : secret "none" not found`),
			ContainSubstring(`MountVolume.SetUp failed for volume "c" : configmap references non-existent config key: none`),
		)))
		f.pod.Spec.Volumes[0].ConfigMap.Optional = ptr.To(true)
		f.pod.Spec.Volumes[1].Secret.Optional = ptr.To(true)
		f.pod.Spec.Volumes[2].ConfigMap.Optional = ptr.To(true)
		Expect(f.mount()).To(HaveLen(3))
	})
})

var _ = Describe("projected and downwardAPI", func() {
	BeforeEach(needRoot)

	It("gathers every source, and tokens only their user and group may read", func() {
		f := newFixture()
		f.pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
		f.pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
		f.add("all", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr.To[int32](0o644), Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.labels"}},
				{Path: "memory", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "app", Resource: "limits.memory"}},
				{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "app", Resource: "limits.cpu"}},
			}}},
			tokenSource("token", "api"),
		}}})
		path := f.mount()["all"].Path
		Expect(content(path, "color")).To(Equal("red"))
		Expect(content(path, "password")).To(Equal("geheim"))
		Expect(content(path, "labels")).To(Equal(`app="web"`))
		Expect(content(path, "memory")).To(Equal("67108864"))
		Expect(content(path, "cpu")).To(Equal("2"))
		Expect(content(path, "token")).To(Equal("token-1 of u1 for [api]"))
		mode, sys := stat(filepath.Join(path, "token"))
		Expect(mode.Perm()).To(BeEquivalentTo(0o640))
		Expect(sys.Gid).To(BeEquivalentTo(2000))
	})

	It("follows the pod's labels", func() {
		f := newFixture()
		f.add("info", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: ptr.To[int32](0o644), Items: []corev1.DownwardAPIVolumeFile{
			{Path: "app", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.labels['app']"}}}}})
		path := f.mount()["info"].Path
		Expect(content(path, "app")).To(Equal("web"))
		f.pod.Labels["app"] = "shop"
		_, err := f.manager.Refresh(context.Background(), f.pod)
		Expect(err).NotTo(HaveOccurred())
		Expect(content(path, "app")).To(Equal("shop"))
	})

	It("renews tokens before a fifth of their life is left, and lives with a broker that is away", func() {
		f := newFixture()
		f.add("sa", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: ptr.To[int32](0o644), Sources: []corev1.VolumeProjection{tokenSource("token", "")}}})
		start := f.clock.Now()
		path := f.mount()["sa"].Path
		next, err := f.manager.Refresh(context.Background(), f.pod)
		Expect(err).NotTo(HaveOccurred())
		Expect(f.store.minted).To(Equal(1))
		Expect(next).To(BeTemporally(">=", start.Add(40*time.Minute)))
		Expect(next).To(BeTemporally("<=", start.Add(48*time.Minute)))

		f.store.tokenError = errors.New("broker is away")
		f.clock.SetTime(next)
		next, err = f.manager.Refresh(context.Background(), f.pod)
		Expect(err).NotTo(HaveOccurred())
		Expect(next).To(Equal(f.clock.Now().Add(10 * time.Second)))
		Expect(content(path, "token")).To(ContainSubstring("token-1"))

		f.clock.SetTime(start.Add(61 * time.Minute))
		_, err = f.manager.Refresh(context.Background(), f.pod)
		Expect(err).To(MatchError(ContainSubstring("token expired and refresh failed: broker is away")))

		f.store.tokenError = nil
		_, err = f.manager.Refresh(context.Background(), f.pod)
		Expect(err).NotTo(HaveOccurred())
		Expect(content(path, "token")).To(ContainSubstring("token-2"))
	})
})

var _ = Describe("hostPath", func() {
	It("checks or makes what the type says", func() {
		f := newFixture()
		host := GinkgoT().TempDir()
		check := func(kind corev1.HostPathType, path string) error {
			f.pod.Spec.Volumes, f.pod.Spec.Containers[0].VolumeMounts = nil, nil
			f.add("host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(host, path), Type: &kind}})
			mounted, err := f.manager.Mount(context.Background(), f.pod)
			if err == nil {
				Expect(mounted["host"]).To(Equal(volumes.Volume{Path: filepath.Join(host, path)}))
			}
			return err
		}
		Expect(check(corev1.HostPathUnset, "none")).To(Succeed())
		Expect(filepath.Join(host, "none")).NotTo(BeAnExistingFile())
		Expect(check(corev1.HostPathDirectory, "none")).To(MatchError(ContainSubstring("hostPath type check failed: " + host + "/none is not a directory")))
		Expect(check(corev1.HostPathDirectoryOrCreate, "dir")).To(Succeed())
		Expect(filepath.Join(host, "dir")).To(BeADirectory())
		Expect(check(corev1.HostPathFile, "dir")).To(MatchError(ContainSubstring("is not a file")))
		Expect(check(corev1.HostPathFileOrCreate, "file")).To(Succeed())
		Expect(filepath.Join(host, "file")).To(BeARegularFile())
		Expect(check(corev1.HostPathSocket, "file")).To(MatchError(ContainSubstring("is not a socket file")))
		Expect(check(corev1.HostPathCharDev, "file")).To(MatchError(ContainSubstring("is not a character device")))
		Expect(check(corev1.HostPathBlockDev, "file")).To(MatchError(ContainSubstring("is not a block device")))
	})
})

var _ = Describe("Unmount", func() {
	BeforeEach(needRoot)

	It("takes off what a container mounted into a volume before it deletes anything", func() {
		f := newFixture()
		f.add("shared", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		path := f.mount()["shared"].Path
		precious := GinkgoT().TempDir()
		Expect(os.WriteFile(filepath.Join(precious, "a"), nil, 0o600)).To(Succeed())
		Expect(os.Mkdir(filepath.Join(path, "in"), 0o700)).To(Succeed())
		Expect(unix.Mount(precious, filepath.Join(path, "in"), "", unix.MS_BIND, "")).To(Succeed())

		Expect(f.manager.Unmount(context.Background(), "u1")).To(Succeed())
		Expect(path).NotTo(BeADirectory())
		Expect(filepath.Join(precious, "a")).To(BeARegularFile())
	})

	It("succeeds for a pod that never was", func() {
		Expect(newFixture().manager.Unmount(context.Background(), types.UID("never"))).To(Succeed())
	})
})
