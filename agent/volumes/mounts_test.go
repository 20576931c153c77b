package volumes_test

import (
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"drayage.dev/agent/volumes"
)

var _ = Describe("Mounts", func() {
	var (
		f       *fixture
		options volumes.ContainerOptions
		mount   *corev1.VolumeMount
	)

	BeforeEach(func() {
		needRoot()
		f = newFixture()
		f.add("data", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		options = volumes.ContainerOptions{Volumes: f.mount()}
		mount = &f.pod.Spec.Containers[0].VolumeMounts[0]
	})

	mounts := func() ([]*runtimeapi.Mount, error) {
		list, cleanup, err := f.manager.Mounts(f.pod, &f.pod.Spec.Containers[0], options)
		cleanup()
		return list, err
	}

	It("translates mode and propagation", func() {
		mount.ReadOnly, mount.MountPropagation = true, ptr.To(corev1.MountPropagationHostToContainer)
		Expect(mounts()).To(Equal([]*runtimeapi.Mount{{
			HostPath: options.Volumes["data"].Path, ContainerPath: "/data", Readonly: true,
			Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		}}))
		mount.MountPropagation = ptr.To(corev1.MountPropagationBidirectional)
		list, err := mounts()
		Expect(err).NotTo(HaveOccurred())
		Expect(list[0].Propagation).To(Equal(runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL))
	})

	It("asks for recursively read-only mounts where the runtime knows them", func() {
		mount.ReadOnly, mount.RecursiveReadOnly = true, ptr.To(corev1.RecursiveReadOnlyEnabled)
		_, err := mounts()
		Expect(err).To(MatchError(ContainSubstring("it is not supported by the runtime")))
		options.RecursiveReadOnly = true
		list, err := mounts()
		Expect(err).NotTo(HaveOccurred())
		Expect(list[0].RecursiveReadOnly).To(BeTrue())
	})

	It("binds a subpath to where the pod cannot change it, once", func() {
		mount.SubPath = "a/b"
		for range 2 {
			list, err := mounts()
			Expect(err).NotTo(HaveOccurred())
			Expect(list[0].HostPath).To(Equal(filepath.Join(f.dir, "u1", "volume-subpaths", "data", "app", "0")))
		}
		Expect(os.WriteFile(filepath.Join(options.Volumes["data"].Path, "a/b/file"), []byte("x"), 0o600)).To(Succeed())
		Expect(content(f.dir, "u1", "volume-subpaths", "data", "app", "0", "file")).To(Equal("x"))
	})

	It("expands subPathExpr, and refuses what leads out of the volume", func() {
		options.Env = map[string]string{"POD": "web", "EMPTY": ""}
		mount.SubPathExpr = "$(POD)/logs"
		_, err := mounts()
		Expect(err).NotTo(HaveOccurred())
		Expect(filepath.Join(options.Volumes["data"].Path, "web/logs")).To(BeADirectory())

		for expression, text := range map[string]string{
			"$(NONE)/$(EMPTY)": "missing value for EMPTY, NONE",
			"/abs":             "must not be an absolute path",
			"../x":             "unable to provision SubPath `../x`",
		} {
			mount.SubPathExpr = expression
			_, err := mounts()
			Expect(err).To(MatchError(ContainSubstring(text)))
		}

		Expect(os.Symlink("/etc", filepath.Join(options.Volumes["data"].Path, "link"))).To(Succeed())
		mount.SubPathExpr = "link"
		_, err = mounts()
		Expect(err).To(MatchError(`failed to prepare subPath for volumeMount "data" of container "app"`))
	})

	It("refuses a volume that is not there", func() {
		mount.Name = "none"
		_, err := mounts()
		Expect(err).To(MatchError(`cannot find volume "none" to mount into container "app"`))
	})

	It("gives the pod its hosts file, in place, unless the container brings its own", func() {
		options.PodIPs, options.Hostname, options.Domain = []string{"10.244.0.5"}, "web", "sub.shop.svc.cluster.local"
		f.pod.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"db", "db.local"}}}
		list, err := mounts()
		Expect(err).NotTo(HaveOccurred())
		Expect(list).To(HaveLen(2))
		Expect(list[1].ContainerPath).To(Equal("/etc/hosts"))
		Expect(content(list[1].HostPath)).To(And(
			ContainSubstring("127.0.0.1\tlocalhost\n"),
			ContainSubstring("10.244.0.5\tweb.sub.shop.svc.cluster.local\tweb\n"),
			ContainSubstring("192.0.2.1\tdb\tdb.local\n"),
		))
		_, before := stat(list[1].HostPath)
		_, err = mounts()
		Expect(err).NotTo(HaveOccurred())
		_, after := stat(list[1].HostPath)
		Expect(after.Ino).To(Equal(before.Ino))
		Expect(after.Mtim).To(Equal(before.Mtim))

		mount.MountPath = "/etc/hosts"
		Expect(mounts()).To(HaveLen(1))
	})

	It("gives hostNetwork pods the node's hosts", func() {
		f.pod.Spec.HostNetwork = true
		list, err := mounts()
		Expect(err).NotTo(HaveOccurred())
		Expect(content(list[1].HostPath)).To(ContainSubstring(content("/etc/hosts")))
	})
})
