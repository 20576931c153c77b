package app_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray-agent/app"
	"drayage.dev/test/single"
)

const loop = "while true; do sleep 0.1; done"

func create(ctx context.Context, p *dcorev1.Pod) {
	GinkgoHelper()
	Expect(w.Client.Create(ctx, p)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		Expect(w.Client.Delete(ctx, p)).To(Or(Succeed(), Satisfy(apierrors.IsNotFound)))
		Eventually(func() error { _, err := get(ctx, p)(); return err }).Should(Satisfy(apierrors.IsNotFound))
	}, NodeTimeout(5*time.Minute))
}

var _ = Describe("a running node", func() {
	It("restarts a container whose liveness probe fails, and waits for readiness", func(ctx SpecContext) {
		// The probes do as the spec says, so that it misses nothing.
		shared := GinkgoT().TempDir()
		p := pod("probed", shell("main", loop))
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: shared}}}}
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			Exec: &corev1.ExecAction{Command: []string{"cat", "/shared/ready"}}}}
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2, TimeoutSeconds: 60, ProbeHandler: corev1.ProbeHandler{
			Exec: &corev1.ExecAction{Command: []string{"cat", "/shared/alive"}}}}
		p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
		Expect(os.WriteFile(filepath.Join(shared, "alive"), nil, 0o644)).To(Succeed())
		create(ctx, p)
		Eventually(get(ctx, p)).Should(And(HaveField("Status.Phase", corev1.PodRunning), Not(Satisfy(ready))))
		Expect(os.WriteFile(filepath.Join(shared, "ready"), nil, 0o644)).To(Succeed())
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		Expect(os.Remove(filepath.Join(shared, "alive"))).To(Succeed())
		Eventually(get(ctx, p)).Should(HaveField("Status.ContainerStatuses", ConsistOf(HaveField("RestartCount", BeNumerically(">=", 1)))))
		events := &corev1.EventList{}
		Eventually(func() []corev1.Event {
			Expect(w.Client.List(ctx, events)).To(Succeed())
			return events.Items
		}).Should(And(
			ContainElement(And(HaveField("InvolvedObject.UID", p.UID), HaveField("Reason", "Unhealthy"), HaveField("Message", ContainSubstring("Liveness")))),
			ContainElement(And(HaveField("InvolvedObject.APIVersion", "core.drayage.dev/v1"), HaveField("Reason", "Started")))))
	}, NodeTimeout(5*time.Minute))

	It("kills what takes more memory than its limit", func(ctx SpecContext) {
		p := pod("hungry", shell("main", "dd if=/dev/zero of=/dev/shm/fill bs=1M count=60; "+loop))
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi"), corev1.ResourceCPU: resource.MustParse("500m")}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "shm", MountPath: "/dev/shm"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "shm", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
		create(ctx, p)
		Eventually(func() string {
			limits, _ := filepath.Glob("/sys/fs/cgroup/memory" + config(w.dir).CgroupRoot + "/pod" + string(p.UID) + "/*/memory.limit_in_bytes")
			for _, limit := range limits {
				if data, err := os.ReadFile(limit); err == nil && string(data) == "33554432\n" {
					return "32Mi"
				}
			}
			return ""
		}).Should(Equal("32Mi"))
	}, NodeTimeout(5*time.Minute))

	It("serves logs, of the container before, too", func(ctx SpecContext) {
		p := pod("talks", shell("main", "echo hello from $HOSTNAME; sleep 0.5; exit 1"))
		create(ctx, p)
		Eventually(get(ctx, p)).Should(HaveField("Status.ContainerStatuses", ConsistOf(HaveField("RestartCount", BeNumerically(">=", 1)))))
		clientset, err := kubernetes.NewForConfig(w.Info.Admin)
		Expect(err).NotTo(HaveOccurred())
		path := "/apis/subresources.drayage.dev/v1alpha1/namespaces/default/pods/talks/log"
		Eventually(func() (string, error) {
			text, err := clientset.RESTClient().Get().AbsPath(path).Param("previous", "true").DoRaw(ctx)
			return string(text), err
		}).Should(Equal("hello from talks\n"))
	}, NodeTimeout(5*time.Minute))

	It("runs pods on the host's network", func(ctx SpecContext) {
		p := pod("hosted", shell("main", loop))
		p.Spec.HostNetwork = true
		create(ctx, p)
		Eventually(get(ctx, p)).Should(And(Satisfy(ready), HaveField("Status.PodIP", nodeAddress)))
	}, NodeTimeout(5*time.Minute))

	It("goes on when containerd is killed", func(ctx SpecContext) {
		p := pod("survives", shell("main", loop))
		create(ctx, p)
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		before, err := get(ctx, p)()
		Expect(err).NotTo(HaveOccurred())
		pid, err := os.ReadFile(filepath.Join(config(w.dir).RunDir, "containerd", "containerd.pid"))
		Expect(err).NotTo(HaveOccurred())
		Expect(single.Run("kill", "-9", string(pid[:len(pid)-1]))).To(Succeed())
		Consistently(get(ctx, p), 5*time.Second).Should(HaveField("Status.ContainerStatuses", Equal(before.Status.ContainerStatuses)))
		Expect(w.Client.Delete(ctx, p)).To(Succeed())
		Eventually(func() error { _, err := get(ctx, p)(); return err }).Should(Satisfy(apierrors.IsNotFound))
	}, NodeTimeout(5*time.Minute))

	It("ends its pods gently when it is asked to take everything down", func(ctx SpecContext) {
		w.stopAgent()
		w.startAgent(takeDownVariable + "=1")
		p := pod("gentle", shell("main", loop))
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"touch", "/shared/stopped"}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: w.dir}}}}
		create(ctx, p)
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		w.stopAgent()
		Expect(filepath.Join(w.dir, "stopped")).To(BeAnExistingFile())
		Expect(filepath.Glob("/sys/fs/cgroup/*" + config(w.dir).CgroupRoot)).To(BeEmpty())
		Expect(config(w.dir).RunDir).NotTo(BeAnExistingFile())
		mounts, err := os.ReadFile("/proc/self/mounts")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(mounts)).NotTo(ContainSubstring(w.dir))
		// The kernel takes a link away some time after the namespace at its other end.
		Eventually(func() (names []string, err error) {
			links, err := net.Interfaces()
			for _, link := range links {
				names = append(names, link.Name)
			}
			return names, err
		}).Should(ConsistOf("lo", "uplink", "nowhere"))
		w.startAgent()
		Eventually(get(ctx, p), 2*time.Minute).Should(Satisfy(ready))
	}, NodeTimeout(5*time.Minute))

	It("starts many pods at once", func(ctx SpecContext) {
		var pods []*dcorev1.Pod
		began := time.Now()
		for i := range 20 {
			p := pod(fmt.Sprintf("many-%d", i), shell("main", "sleep 600"))
			p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
			Expect(w.Client.Create(ctx, p)).To(Succeed())
			pods = append(pods, p)
		}
		for _, p := range pods {
			Eventually(get(ctx, p), 2*time.Minute).Should(Satisfy(ready))
		}
		GinkgoWriter.Printf("20 pods were Ready after %v\n", time.Since(began))
		began = time.Now()
		for _, p := range pods {
			Expect(w.Client.Delete(ctx, p)).To(Succeed())
		}
		for _, p := range pods {
			Eventually(func() error { _, err := get(ctx, p)(); return err }, time.Minute).Should(Satisfy(apierrors.IsNotFound))
		}
		GinkgoWriter.Printf("20 pods were gone after %v\n", time.Since(began))
	}, NodeTimeout(5*time.Minute))

	It("is taken down whole, and comes back with its pods", func(ctx SpecContext) {
		p := pod("returns", shell("main", loop))
		create(ctx, p)
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		w.stopAgent()
		Expect(app.Clean(ctx, config(w.dir))).To(Succeed())
		Expect(processesOf(string(p.UID))).To(BeEmpty())
		Expect(filepath.Glob("/sys/fs/cgroup/*" + config(w.dir).CgroupRoot)).To(BeEmpty())
		w.startAgent()
		Eventually(get(ctx, p), 2*time.Minute).Should(And(Satisfy(ready), HaveField("Status.ContainerStatuses", ConsistOf(HaveField("RestartCount", BeEquivalentTo(1))))))
	}, NodeTimeout(5*time.Minute))
})
