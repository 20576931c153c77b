package app_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

func pod(name string, containers ...corev1.Container) *dcorev1.Pod {
	return &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{Containers: containers},
	}
}

func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: "busybox:1.36", Command: []string{"sh", "-c", script}}
}

func get(ctx context.Context, p *dcorev1.Pod) func() (*dcorev1.Pod, error) {
	return func() (*dcorev1.Pod, error) {
		found := &dcorev1.Pod{}
		err := w.Client.Get(ctx, client.ObjectKeyFromObject(p), found)
		return found, err
	}
}

func ready(p *dcorev1.Pod) bool { return podutil.IsPodReadyConditionTrue(p.Status.PodStatus) }

var _ = Describe("a node", Ordered, ContinueOnFailure, func() {
	It("registers and becomes Ready", func(ctx SpecContext) {
		Eventually(func(g Gomega) {
			node := &dcorev1.Node{}
			g.Expect(w.Client.Get(ctx, client.ObjectKey{Name: nodeName}, node)).To(Succeed())
			g.Expect(node.Status.Conditions).To(ContainElement(And(
				HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionTrue))), "%v", node.Status.Conditions)
			g.Expect(node.Status.Allocatable.Cpu().Value()).To(BeNumerically(">", 0))
			g.Expect(node.Status.NodeInfo.ContainerRuntimeVersion).To(HavePrefix("containerd://"))
		}, time.Minute).Should(Succeed())
	}, NodeTimeout(5*time.Minute))

	It("runs a pod, keeps it through the agent's death, and leaves nothing of it", func(ctx SpecContext) {
		p := pod("first", shell("main", "while true; do sleep 0.1; done"))
		Expect(w.Client.Create(ctx, p)).To(Succeed())
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		running, err := get(ctx, p)()
		Expect(err).NotTo(HaveOccurred())
		Expect(running.Status.Phase).To(Equal(corev1.PodRunning))
		Expect(running.Status.PodIP).To(HavePrefix("10.244."))
		Expect(running.Status.Summary).To(Equal(dcorev1.PodSummary{Ready: "1/1", Status: "Running", Restarts: "0"}))
		id := running.Status.ContainerStatuses[0].ContainerID
		Expect(processesOf(string(p.UID))).NotTo(BeEmpty())

		w.killAgent()
		w.startAgent()
		Consistently(get(ctx, p), 5*time.Second).Should(And(Satisfy(ready), HaveField("Status.ContainerStatuses", ConsistOf(And(
			HaveField("ContainerID", id), HaveField("RestartCount", BeZero()))))))

		Expect(w.Client.Delete(ctx, p)).To(Succeed())
		Eventually(func() error { _, err := get(ctx, p)(); return err }).Should(Satisfy(apierrors.IsNotFound))
		Expect(processesOf(string(p.UID))).To(BeEmpty())
		Expect(filepath.Glob(filepath.Join(w.dir, "node/agent/pods", string(p.UID)))).To(BeEmpty())
		Expect(filepath.Glob(filepath.Join(w.dir, "node/agent/logs/pods/*"+string(p.UID)))).To(BeEmpty())
		Expect(filepath.Glob("/sys/fs/cgroup/*" + config(w.dir).CgroupRoot + "/*/pod" + string(p.UID))).To(BeEmpty())
	}, NodeTimeout(5*time.Minute))

	It("runs init containers in order, then a sidecar, then the app, over shared volumes", func(ctx SpecContext) {
		always := corev1.ContainerRestartPolicyAlways
		share := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
		first, second := shell("first", "echo first >> /shared/order"), shell("second", "echo second >> /shared/order")
		sidecar := shell("sidecar", "echo sidecar >> /shared/order; while true; do sleep 0.1; done")
		sidecar.RestartPolicy = &always
		main := shell("main", "echo main >> /shared/order; cat /shared/order; while true; do sleep 0.1; done")
		for _, container := range []*corev1.Container{&first, &second, &sidecar, &main} {
			container.VolumeMounts = share
		}
		p := pod("ordered", main)
		p.Spec.InitContainers = []corev1.Container{first, second, sidecar}
		p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		Expect(w.Client.Create(ctx, p)).To(Succeed())
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		Eventually(func() string {
			logs, _ := filepath.Glob(filepath.Join(w.dir, "node/agent/logs/pods/*"+string(p.UID), "main", "0.log"))
			text := ""
			for _, log := range logs {
				data, _ := os.ReadFile(log)
				for line := range strings.Lines(string(data)) {
					fields := strings.Fields(line)
					text += fields[len(fields)-1] + " "
				}
			}
			return text
		}).Should(Equal("first second sidecar main "))
		Expect(get(ctx, p)()).To(HaveField("Status.Summary.Ready", "2/2"))
		Expect(w.Client.Delete(ctx, p)).To(Succeed())
		Eventually(func() error { _, err := get(ctx, p)(); return err }).Should(Satisfy(apierrors.IsNotFound))
	}, NodeTimeout(5*time.Minute))

	It("says what is wrong and recovers by itself", func(ctx SpecContext) {
		p := pod("recovers", shell("main", "while true; do sleep 0.1; done"))
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "KEY", ValueFrom: &corev1.EnvVarSource{
			ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "late"}, Key: "key"},
		}}}
		Expect(w.Client.Create(ctx, p)).To(Succeed())
		Eventually(get(ctx, p)).Should(HaveField("Status.ContainerStatuses", ConsistOf(HaveField("State.Waiting", And(
			HaveField("Reason", "CreateContainerConfigError"), HaveField("Message", ContainSubstring(`"late" not found`)))))))
		Expect(w.Client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "late"}, Data: map[string]string{"key": "value"}})).To(Succeed())
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		Expect(w.Client.Delete(ctx, p)).To(Succeed())
		Eventually(func() error { _, err := get(ctx, p)(); return err }).Should(Satisfy(apierrors.IsNotFound))
	}, NodeTimeout(5*time.Minute))

	It("completes a pod, and restarts one that fails with back-off", func(ctx SpecContext) {
		completes := pod("completes", shell("main", "echo done > /dev/termination-log"))
		completes.Spec.RestartPolicy = corev1.RestartPolicyNever
		Expect(w.Client.Create(ctx, completes)).To(Succeed())
		Eventually(get(ctx, completes)).Should(And(
			HaveField("Status.Phase", corev1.PodSucceeded), HaveField("Status.Summary.Status", "Completed"),
			HaveField("Status.ContainerStatuses", ConsistOf(HaveField("State.Terminated.Message", "done\n")))))
		Eventually(func() []string { return processesOf(string(completes.UID)) }).Should(BeEmpty())

		fails := pod("fails", shell("main", "exit 7"))
		Expect(w.Client.Create(ctx, fails)).To(Succeed())
		Eventually(get(ctx, fails)).Should(And(HaveField("Status.Summary.Status", "CrashLoopBackOff"), HaveField("Status.ContainerStatuses", ConsistOf(And(
			HaveField("RestartCount", BeNumerically(">=", 1)), HaveField("State.Waiting.Reason", "CrashLoopBackOff"),
			HaveField("LastTerminationState.Terminated.ExitCode", BeEquivalentTo(7)))))))
		for _, p := range []*dcorev1.Pod{completes, fails} {
			Expect(w.Client.Delete(ctx, p)).To(Succeed())
			Eventually(func() error { _, err := get(ctx, p)(); return err }).Should(Satisfy(apierrors.IsNotFound))
		}
	}, NodeTimeout(5*time.Minute))

	It("says that an image does not exist", func(ctx SpecContext) {
		p := pod("no-image", corev1.Container{Name: "main", Image: "no-such-image:1"})
		Expect(w.Client.Create(ctx, p)).To(Succeed())
		Eventually(get(ctx, p)).Should(HaveField("Status.ContainerStatuses", ConsistOf(HaveField("State.Waiting", And(
			HaveField("Reason", BeElementOf("ErrImagePull", "ImagePullBackOff")), HaveField("Message", ContainSubstring("no-such-image")))))))
		Expect(w.Client.Delete(ctx, p)).To(Succeed())
		Eventually(func() error { _, err := get(ctx, p)(); return err }).Should(Satisfy(apierrors.IsNotFound))
	}, NodeTimeout(5*time.Minute))

	It("kills what the API does not know any more", func(ctx SpecContext) {
		p := pod("forced", shell("main", "while true; do sleep 0.1; done"))
		Expect(w.Client.Create(ctx, p)).To(Succeed())
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		w.killAgent()
		Expect(w.Client.Delete(ctx, p)).To(Succeed())
		stuck, err := get(ctx, p)()
		Expect(err).NotTo(HaveOccurred())
		stuck.Finalizers = nil
		Expect(w.Client.Update(ctx, stuck)).To(Succeed())
		Expect(processesOf(string(p.UID))).NotTo(BeEmpty())
		w.startAgent()
		Eventually(func() []string { return processesOf(string(p.UID)) }).Should(BeEmpty())
		Eventually(func() ([]string, error) { return filepath.Glob(filepath.Join(w.dir, "node/agent/pods", string(p.UID))) }).Should(BeEmpty())
	}, NodeTimeout(5*time.Minute))

	It("stops in good order and goes on where it was", func(ctx SpecContext) {
		p := pod("stays", shell("main", "while true; do sleep 0.1; done"))
		Expect(w.Client.Create(ctx, p)).To(Succeed())
		Eventually(get(ctx, p)).Should(Satisfy(ready))
		w.stopAgent()
		Expect(processesOf(string(p.UID))).NotTo(BeEmpty())
		w.startAgent()
		Expect(w.Client.Delete(ctx, p, client.GracePeriodSeconds(1))).To(Succeed())
		Eventually(func() error { _, err := get(ctx, p)(); return err }).Should(Satisfy(apierrors.IsNotFound))
	}, NodeTimeout(5*time.Minute))
})
