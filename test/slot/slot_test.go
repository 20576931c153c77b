package slot_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

func newPod(name, script string) *dcorev1.Pod {
	return &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers:                    []corev1.Container{{Name: "main", Image: "busybox:1.36", Command: []string{"sh", "-c", script}}},
		},
	}
}

func get(ctx context.Context, pod *dcorev1.Pod) func() (*dcorev1.Pod, error) {
	return func() (*dcorev1.Pod, error) {
		found := &dcorev1.Pod{}
		return found, m.Client.Get(ctx, client.ObjectKeyFromObject(pod), found)
	}
}

func ready(pod *dcorev1.Pod) bool { return podutil.IsPodReadyConditionTrue(pod.Status.PodStatus) }

// log returns what the pod's container has written, through the API server and the node.
func log(ctx context.Context, pod *dcorev1.Pod) (string, error) {
	client, err := discovery.NewDiscoveryClientForConfig(m.Info.Admin)
	if err != nil {
		return "", err
	}
	text, err := client.RESTClient().Get().AbsPath("/apis/subresources.drayage.dev/v1alpha1/namespaces/default/pods/" + pod.Name + "/log").DoRaw(ctx)
	return string(text), err
}

var _ = Describe("an agent that is a pod", Ordered, func() {
	first := newPod("first", "echo here; while true; do sleep 0.1; done")

	It("makes a node of its slot", func(ctx SpecContext) {
		node := &dcorev1.Node{}
		Eventually(func(g Gomega) {
			g.Expect(m.Client.Get(ctx, client.ObjectKey{Name: nodeName}, node)).To(Succeed())
			g.Expect(node.Status.Conditions).To(ContainElement(And(
				HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionTrue))), "%v", node.Status.Conditions)
		}, 2*time.Minute).Should(Succeed())
		Expect(node.Status.Capacity.Cpu().String()).To(Equal(slotCPU))
		Expect(node.Status.Capacity.Memory().String()).To(Equal(slotMemory))
		Expect(node.Status.Allocatable.Cpu().String()).To(Equal("900m"), "less agent and runtime")
		Expect(node.Status.Allocatable.Memory().String()).To(Equal("768Mi"), "less agent and runtime")
		Expect(m.slot.Read("memory", m.slot.Root(), limitFile())).To(Equal("939524096"), "1Gi less the agent's 128Mi, which its pod's cgroup has")
	}, NodeTimeout(5*time.Minute))

	It("runs containers beside its own pod, and serves their logs", func(ctx SpecContext) {
		first.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("64Mi")}
		first.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
		Expect(m.Client.Create(ctx, first)).To(Succeed())
		Eventually(get(ctx, first)).Should(Satisfy(ready))
		Expect(m.slot.Processes(m.slot.Root())).NotTo(BeEmpty())
		Eventually(func(g Gomega) {
			for _, pid := range m.pods.Processes(m.pods.Root()) {
				name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(strings.TrimSpace(string(name))).To(Equal("dray-agent"), "nothing else stays in the pod's cgroup")
			}
		}).Should(Succeed())
		Eventually(func() (string, error) { return log(ctx, first) }).Should(Equal("here\n"))
	}, NodeTimeout(5*time.Minute))

	It("brings its container runtime along, which counts its sandboxes without harm", func(ctx SpecContext) {
		node := &dcorev1.Node{}
		Expect(m.Client.Get(ctx, client.ObjectKey{Name: nodeName}, node)).To(Succeed())
		Expect(node.Status.NodeInfo.ContainerRuntimeVersion).To(HavePrefix("containerd://2."))
		conn, err := grpc.NewClient("unix://"+filepath.Join(m.dir, "run/containerd/containerd.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(conn.Close)
		runtime := runtimeapi.NewRuntimeServiceClient(conn)
		before := lasting()
		for range 3 {
			metrics, err := runtime.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
			Expect(err).NotTo(HaveOccurred())
			Expect(metrics.PodMetrics).NotTo(BeEmpty())
		}
		Expect(m.slot.Processes(m.slot.Root())).To(ContainElements(before), "containerd 2.2.1 died of the question")
	}, NodeTimeout(5*time.Minute))

	It("is deleted, and its containers go on for the next one", func(ctx SpecContext) {
		before, err := get(ctx, first)()
		Expect(err).NotTo(HaveOccurred())
		processes := lasting()
		m.killPod(ctx)
		Expect(m.slot.Processes(m.slot.Root())).To(ContainElements(processes))
		m.startPod()
		second := newPod("second", "while true; do sleep 0.1; done")
		Expect(m.Client.Create(ctx, second)).To(Succeed())
		Eventually(get(ctx, second)).Should(Satisfy(ready), "the new agent works")
		Expect(get(ctx, first)()).To(HaveField("Status.ContainerStatuses", ConsistOf(And(
			HaveField("ContainerID", before.Status.ContainerStatuses[0].ContainerID), HaveField("RestartCount", BeZero())))))
		Expect(m.slot.Processes(m.slot.Root())).To(ContainElements(processes), "the runtime goes on, too")
		Eventually(func() (string, error) { return log(ctx, first) }).Should(Equal("here\n"))
	}, NodeTimeout(5*time.Minute))

	It("lets nobody take more memory than the slot has", func(ctx SpecContext) {
		hog := newPod("hog", "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done")
		hog.Spec.RestartPolicy = corev1.RestartPolicyNever
		Expect(m.Client.Create(ctx, hog)).To(Succeed())
		Eventually(get(ctx, hog), 5*time.Minute).Should(HaveField("Status.ContainerStatuses", ConsistOf(
			HaveField("State.Terminated.ExitCode", BeEquivalentTo(137)))))
		Expect(get(ctx, first)()).To(And(Satisfy(ready), HaveField("Status.ContainerStatuses", ConsistOf(HaveField("RestartCount", BeZero())))))
	}, NodeTimeout(10*time.Minute))

	It("ends in good order when it is asked to", func(ctx SpecContext) {
		processes := lasting()
		Expect(m.agent.Process.Signal(syscall.SIGTERM)).To(Succeed())
		Expect(m.agent.Wait()).To(Succeed())
		m.agent = nil
		Expect(m.slot.Processes(m.slot.Root())).To(ContainElements(processes))
		m.startPod()
		Eventually(func() (string, error) { return log(ctx, first) }).Should(Equal("here\n"))
	}, NodeTimeout(5*time.Minute))

	It("is cleaned up after by a pod that waits for it", func(ctx SpecContext) {
		cleaner := m.inPod("clean.log", filepath.Join(m.dir, "rootfs/dray-agent"), "clean", "--host", "--purge",
			"--data-dir", filepath.Join(m.dir, "node"), "--run-dir", filepath.Join(m.dir, "run"), "--cgroup-root", m.slot.Root())
		sockets := shimSockets()
		Expect(sockets).NotTo(BeEmpty())
		ended := make(chan error, 1)
		go func() { ended <- cleaner.Wait() }()
		Consistently(ended, 2*time.Second).ShouldNot(Receive(), "the agent runs")
		Expect(m.agent.Process.Signal(syscall.SIGTERM)).To(Succeed())
		Expect(m.agent.Wait()).To(Succeed())
		m.agent = nil
		Eventually(ended, 2*time.Minute).Should(Receive(BeNil()), func() string {
			text, _ := os.ReadFile(filepath.Join(m.dir, "clean.log"))
			return string(text)
		})
		Expect(filepath.Glob("/sys/fs/cgroup/*" + m.slot.Root())).To(BeEmpty())
		Expect(filepath.Join(m.dir, "node")).NotTo(BeADirectory())
		Expect(filepath.Join(m.dir, "run")).NotTo(BeADirectory())
		mounts, err := os.ReadFile("/proc/self/mounts")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(mounts)).NotTo(ContainSubstring(m.dir))
		for _, socket := range sockets {
			Expect(socket).NotTo(BeAnExistingFile())
		}

		By("once more, with nothing left to do")
		for _, folder := range []string{"node", "run"} {
			// A kubelet makes the directories of a pod's volumes.
			Expect(os.Mkdir(filepath.Join(m.dir, folder), 0o755)).To(Succeed())
		}
		again := m.inPod("clean.log", cleaner.Args[slices.Index(cleaner.Args, "container")+1:]...)
		Expect(again.Wait()).To(Succeed())
		Expect(filepath.Join(m.dir, "node")).NotTo(BeADirectory())
		Expect(filepath.Join(m.dir, "run")).NotTo(BeADirectory())
	}, NodeTimeout(5*time.Minute))
})

// lasting are the processes of the slot that are there for longer than a moment, which a runtime's helpers are not.
func lasting() (processes []int) {
	GinkgoHelper()
	processes = m.slot.Processes(m.slot.Root())
	Consistently(func() []int {
		now := m.slot.Processes(m.slot.Root())
		processes = slices.DeleteFunc(processes, func(pid int) bool { return !slices.Contains(now, pid) })
		return processes
	}, time.Second).ShouldNot(BeEmpty())
	return processes
}

// shimSockets are where the shims of the slot listen, by what they wrote down themselves: in a directory of the
// machine that all its containerds share.
func shimSockets() (sockets []string) {
	GinkgoHelper()
	files, err := filepath.Glob(filepath.Join(m.dir, "run/containerd/state/io.containerd.runtime.v2.task/k8s.io/*/bootstrap.json"))
	Expect(err).NotTo(HaveOccurred())
	for _, file := range files {
		var bootstrap struct {
			Address string `json:"address"`
		}
		text, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		Expect(json.Unmarshal(text, &bootstrap)).To(Succeed())
		sockets = append(sockets, strings.TrimPrefix(bootstrap.Address, "unix://"))
		Expect(sockets).To(HaveEach(BeAnExistingFile()))
	}
	return sockets
}

// limitFile is where a group's memory is limited.
func limitFile() string {
	if m.slot.Unified() {
		return "memory.max"
	}
	return "memory.limit_in_bytes"
}
