package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/cluster"
)

var _ = Describe("failures", func() {
	webLabels := labels.Set{"app": "web"}

	// containers maps every container of the namespace's live pods to its runtime id and restarts.
	containers := func(ctx context.Context, namespace string) map[string]string {
		ids := map[string]string{}
		for _, pod := range pods(ctx, c, namespace, webLabels) {
			for _, status := range pod.Status.ContainerStatuses {
				ids[pod.Name+"/"+status.Name] = status.ContainerID + " restarts " + strconv.Itoa(int(status.RestartCount))
			}
		}
		return ids
	}

	// survive kills something, asks for more pods while it is down where there is an API server to ask, and
	// proves that the cluster converges once it is back and that no container was touched.
	survive := func(ctx context.Context, kill, start func() error) {
		GinkgoHelper()
		namespace := newNamespace(ctx, c)
		apply(ctx, c, namespace, web)
		available(ctx, c, namespace, "web")
		before := containers(ctx, namespace)
		Expect(before).To(HaveLen(3))

		Expect(kill()).To(Succeed())
		grow := func() error {
			_, err := c.Kubectl(ctx, "scale", "ddeploy/web", "--replicas=4", "-n", namespace)
			return err
		}
		if c.Server.Running() {
			Expect(grow()).To(Succeed())
		}
		Expect(start()).To(Succeed())

		By("what was asked for comes")
		Eventually(grow).Should(Succeed())
		readyPods(ctx, c, namespace, webLabels, 4)
		after := containers(ctx, namespace)
		for name, id := range before {
			Expect(after).To(HaveKeyWithValue(name, id), "no container of a healthy pod restarts")
		}
		Expect(c.Nodes[0].WaitReady(ctx, 3*time.Minute)).To(Succeed())
	}

	It("survives kill -9 of the agent", func(ctx SpecContext) {
		survive(ctx, c.Nodes[0].Agent.Kill, c.Nodes[0].Agent.Start)
	}, SpecTimeout(10*time.Minute))

	It("survives kill -9 of the manager", func(ctx SpecContext) {
		survive(ctx, c.Manager.Kill, c.Manager.Start)
	}, SpecTimeout(10*time.Minute))

	It("survives kill -9 of the scheduler", func(ctx SpecContext) {
		survive(ctx, c.Scheduler.Kill, c.Scheduler.Start)
	}, SpecTimeout(10*time.Minute))

	It("survives kill -9 of the API server", func(ctx SpecContext) {
		survive(ctx, c.Server.Kill, c.Server.Start)
	}, SpecTimeout(10*time.Minute))

	It("survives kill -9 of containerd", func(ctx SpecContext) {
		pid := containerd(c.Nodes[0])
		survive(ctx, func() error { return syscall.Kill(pid, syscall.SIGKILL) }, func() error {
			Eventually(func() int { return containerd(c.Nodes[0]) }).ShouldNot(BeElementOf(0, pid), "the agent starts it again")
			return nil
		})
	}, SpecTimeout(10*time.Minute))

	It("taints a node whose lease stops, and evicts its pods after their toleration", func(ctx SpecContext) {
		two, err := cluster.Start(ctx, cluster.Options{Nodes: 2, ManagerArgs: []string{"--node-monitor-grace-period=15s"}})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			if CurrentSpecReport().Failed() {
				GinkgoWriter.Println(two.Tails(60))
			}
			Expect(two.Close()).To(Succeed())
		})
		namespace := newNamespace(ctx, two)
		apply(ctx, two, namespace, impatient)
		available(ctx, two, namespace, "web")
		var lost *cluster.Node
		for _, pod := range readyPods(ctx, two, namespace, webLabels, 2) {
			for _, node := range two.Nodes {
				if pod.Spec.NodeName == node.Name {
					lost = node
				}
			}
		}
		Expect(lost.Agent.Kill()).To(Succeed())

		node := &dcorev1.Node{}
		Eventually(func(g Gomega) {
			g.Expect(two.Client.Get(ctx, client.ObjectKey{Name: lost.Name}, node)).To(Succeed())
			g.Expect(node.Status.Conditions).To(ContainElement(And(
				HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionUnknown))))
			g.Expect(node.Spec.Taints).To(ContainElement(And(
				HaveField("Key", corev1.TaintNodeUnreachable), HaveField("Effect", corev1.TaintEffectNoExecute))))
			g.Expect(node.Status.Summary.Status).To(Equal("NotReady"))
		}).Should(Succeed())
		Eventually(func(g Gomega) {
			live := pods(ctx, two, namespace, webLabels)
			g.Expect(live).To(HaveLen(2))
			for i := range live {
				g.Expect(live[i].Spec.NodeName).NotTo(Equal(lost.Name))
				g.Expect(ready(&live[i])).To(BeTrue())
			}
		}).Should(Succeed())

		By("the node comes back: Ready, no taint, and what was evicted meanwhile is gone from it")
		Expect(lost.Agent.Start()).To(Succeed())
		Expect(lost.WaitReady(ctx, 3*time.Minute)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(two.Client.Get(ctx, client.ObjectKey{Name: lost.Name}, node)).To(Succeed())
			g.Expect(node.Spec.Taints).To(BeEmpty())
			list := &dcorev1.PodList{}
			g.Expect(two.Client.List(ctx, list, client.InNamespace(namespace))).To(Succeed())
			g.Expect(list.Items).To(HaveLen(2))
		}).Should(Succeed())
	}, SpecTimeout(10*time.Minute))
})

const impatient = `
apiVersion: apps.drayage.dev/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers:
      - {name: web, image: my-app:1.0}
`

// containerd is the number of the node's container runtime process, or 0.
func containerd(node *cluster.Node) int {
	GinkgoHelper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	Expect(err).NotTo(HaveOccurred())
	for _, path := range commands {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		argv := strings.Split(string(data), "\x00")
		if filepath.Base(argv[0]) == "containerd" && strings.Contains(string(data), node.Dir) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			Expect(err).NotTo(HaveOccurred())
			return pid
		}
	}
	return 0
}
