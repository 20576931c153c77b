//go:build cluster

package kubelet_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

// agentPod is a pod as the DaemonSet makes it, bound to the machine.
func agentPod(name string, command ...string) *corev1.Pod {
	slot := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	directory := corev1.HostPathDirectoryOrCreate
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeName: nodeName, HostPID: true, HostNetwork: true, PriorityClassName: "system-node-critical", ServiceAccountName: "drayage-agent",
			TerminationGracePeriodSeconds: new(int64(10)), RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name: "agent", Image: agentImage, ImagePullPolicy: corev1.PullNever, Command: command, Resources: corev1.ResourceRequirements{Requests: slot},
				// There is no kube-proxy that would lead to the service of the API server.
				Env: []corev1.EnvVar{{Name: "KUBERNETES_SERVICE_HOST", Value: nodeAddress}, {Name: "KUBERNETES_SERVICE_PORT", Value: port}},
				SecurityContext: &corev1.SecurityContext{
					Capabilities:    &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN"}},
					SeccompProfile:  &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined},
					AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined},
				},
			}},
		},
	}
	for volume, path := range map[string]string{"data": filepath.Join(m.dir, "node"), "run": filepath.Join(m.dir, "run")} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &directory},
		}})
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: path})
	}
	return pod
}

func newAgent(name string) *corev1.Pod {
	return agentPod(name, "/usr/local/bin/dray-agent", "pod", "--data-dir", filepath.Join(m.dir, "node"), "--run-dir", filepath.Join(m.dir, "run"), "--",
		"--node-name", nodeName, "--node-ip", nodeAddress, "--cgroup-root", m.slot.Root(), "--slot-cpu", "500m", "--slot-memory", "1Gi")
}

// drayagePod is a Drayage pod as admission makes it, bound to the machine.
func drayagePod(name string) *dcorev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Finalizers: []string{dcorev1.NodeFinalizer}},
		Spec: corev1.PodSpec{
			NodeName: nodeName, AutomountServiceAccountToken: new(false), TerminationGracePeriodSeconds: new(int64(1)),
			Containers: []corev1.Container{{Name: "main", Image: "busybox:1.36", Command: []string{"sh", "-c", "while true; do sleep 0.1; done"}}},
		},
	}
	legacyscheme.Scheme.Default(pod)
	return &dcorev1.Pod{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
}

func phase(ctx context.Context, pod *corev1.Pod) func() (corev1.PodPhase, error) {
	return func() (corev1.PodPhase, error) {
		err := m.api.Get(ctx, client.ObjectKeyFromObject(pod), pod)
		return pod.Status.Phase, err
	}
}

func get(ctx context.Context, pod *dcorev1.Pod) func() (*dcorev1.Pod, error) {
	return func() (*dcorev1.Pod, error) {
		found := &dcorev1.Pod{}
		return found, m.api.Get(ctx, client.ObjectKeyFromObject(pod), found)
	}
}

func ready(pod *dcorev1.Pod) bool { return podutil.IsPodReadyConditionTrue(pod.Status.PodStatus) }

// remove deletes a pod and waits until the kubelet has ended it.
func remove(ctx context.Context, pod *corev1.Pod, options ...client.DeleteOption) {
	GinkgoHelper()
	Expect(m.api.Delete(ctx, pod, options...)).To(Succeed())
	Eventually(func() error { return m.api.Get(ctx, client.ObjectKeyFromObject(pod), pod) }).Should(Satisfy(apierrors.IsNotFound))
}

var _ = Describe("the agent in a kubelet's pod", Ordered, func() {
	var agent *corev1.Pod
	var web *dcorev1.Pod

	begin := func(ctx context.Context, name string) {
		GinkgoHelper()
		agent = newAgent(name)
		Expect(m.api.Create(ctx, agent)).To(Succeed())
		Eventually(phase(ctx, agent)).Should(Equal(corev1.PodRunning))
	}

	It("makes a node of its slot, with the identity of the pod", func(ctx SpecContext) {
		begin(ctx, "agent-1")
		node := &dcorev1.Node{}
		Eventually(func() error { return m.api.Get(ctx, client.ObjectKey{Name: nodeName}, node) }).Should(Succeed())
		// The address range that the node controller would give it.
		patch := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}}`))
		Expect(m.api.Patch(ctx, node, patch)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(m.api.Get(ctx, client.ObjectKey{Name: nodeName}, node)).To(Succeed())
			g.Expect(node.Status.Conditions).To(ContainElement(And(
				HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionTrue))), "%v", node.Status.Conditions)
		}).Should(Succeed())
		Expect(node.Status.Capacity.Cpu().String()).To(Equal("500m"))
	}, NodeTimeout(2*time.Minute))

	It("runs Drayage's containers beside the kubelet's", func(ctx SpecContext) {
		web = drayagePod("web")
		Expect(m.api.Create(ctx, web)).To(Succeed())
		Eventually(get(ctx, web)).Should(Satisfy(ready))
		ours := m.slot.Processes(m.slot.Root())
		Expect(ours).NotTo(BeEmpty())
		Expect(m.pods.Processes(m.pods.Root())).NotTo(ContainElements(ours))
		for _, pid := range m.pods.Processes(m.pods.Root()) {
			name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
			if err == nil {
				Expect(strings.TrimSpace(string(name))).To(BeElementOf("dray-agent", "pause"))
			}
		}
	}, NodeTimeout(2*time.Minute))

	DescribeTable("leaves them to the next one", func(ctx SpecContext, name string, end func()) {
		before, err := get(ctx, web)()
		Expect(err).NotTo(HaveOccurred())
		ours := m.slot.Processes(m.slot.Root())
		end()
		Expect(m.slot.Processes(m.slot.Root())).To(ContainElements(ours))
		begin(ctx, name)
		second := drayagePod("after-" + name)
		Expect(m.api.Create(ctx, second)).To(Succeed())
		Eventually(get(ctx, second)).Should(Satisfy(ready))
		Expect(get(ctx, web)()).To(And(Satisfy(ready), HaveField("Status.ContainerStatuses", ConsistOf(And(
			HaveField("ContainerID", before.Status.ContainerStatuses[0].ContainerID), HaveField("RestartCount", BeZero()))))))
		Expect(m.slot.Processes(m.slot.Root())).To(ContainElements(ours))
	},
		Entry("when it is deleted", NodeTimeout(2*time.Minute), "agent-2", func() { remove(context.Background(), agent) }),
		Entry("when it is deleted by force", NodeTimeout(2*time.Minute), "agent-3", func() {
			remove(context.Background(), agent, client.GracePeriodSeconds(0))
			// The object has gone, its processes go when the kubelet comes to it.
			Eventually(func() []int { return m.pods.Processes(m.pods.Root()) }).Should(BeEmpty())
		}),
		Entry("when it and the kubelet are killed", NodeTimeout(2*time.Minute), "agent-4", func() {
			m.kubelet.kill()
			m.startKubelet()
			remove(context.Background(), agent)
		}),
	)

	It("is cleaned up after by a one-shot pod", func(ctx SpecContext) {
		remove(ctx, agent)
		cleaner := agentPod("clean", "/usr/local/bin/dray-agent", "clean", "--host", "--purge",
			"--data-dir", filepath.Join(m.dir, "node"), "--run-dir", filepath.Join(m.dir, "run"), "--cgroup-root", m.slot.Root())
		Expect(m.api.Create(ctx, cleaner)).To(Succeed())
		Eventually(phase(ctx, cleaner)).Should(Equal(corev1.PodSucceeded), "%v", cleaner.Status)
		Expect(filepath.Glob("/sys/fs/cgroup/*" + m.slot.Root())).To(BeEmpty())
		mounts, err := os.ReadFile("/proc/self/mounts")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(mounts)).NotTo(ContainSubstring(filepath.Join(m.dir, "node")))
		left, err := os.ReadDir(filepath.Join(m.dir, "node"))
		Expect(err == nil && len(left) == 0 || os.IsNotExist(err)).To(BeTrue(), "%v", left)
		remove(ctx, cleaner)
	}, NodeTimeout(2*time.Minute))
})
