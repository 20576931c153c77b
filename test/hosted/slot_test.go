//go:build cluster

package hosted_test

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
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

// slotProcesses are what runs in Drayage's cgroup on the machine, kubeletProcesses in the kubelet's.
func (m *machine) slotProcesses() []int    { return m.tree.Processes(m.tree.Root() + "/drayage") }
func (m *machine) kubeletProcesses() []int { return m.tree.Processes(m.tree.Root() + "/kubepods") }

// podProcesses are those of one of the host's pods.
func (m *machine) podProcesses(pod types.UID) []int {
	for _, class := range []string{"", "burstable", "besteffort"} {
		if found := m.tree.Processes(filepath.Join(m.tree.Root(), "kubepods", class, "pod"+string(pod))); len(found) > 0 {
			return found
		}
	}
	return nil
}

func nameOf(pid int) string {
	name, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	return strings.TrimSpace(string(name))
}

// agent returns the agent's pod on a machine, or an empty one while there is none.
func (m *machine) agent(ctx context.Context) *corev1.Pod {
	GinkgoHelper()
	for _, pod := range podsOf(ctx, "agent") {
		if pod.Spec.NodeName == m.name && pod.DeletionTimestamp == nil {
			return pod
		}
	}
	return &corev1.Pod{}
}

// containers are the containers of an application's pods, with how often each was restarted.
func containers(ctx context.Context, app string) map[string]int32 {
	found := map[string]int32{}
	for _, pod := range pods(ctx, app) {
		for _, status := range pod.Status.ContainerStatuses {
			found[pod.Name+" "+status.ContainerID] = status.RestartCount
		}
	}
	return found
}

func specsOfSlot() {
	It("keeps to its slot", func(ctx SpecContext) {
		for _, m := range h.machines {
			node := &dcorev1.Node{}
			Expect(h.api.Get(ctx, client.ObjectKey{Name: m.name}, node)).To(Succeed())
			Expect(node.Status.Capacity.Cpu().String()).To(Equal("1"))
			Expect(node.Status.Capacity.Memory().String()).To(Equal("2Gi"))
			Expect(node.Spec.PodCIDR).To(HaveSuffix("/26"))
			names := map[string]bool{}
			for _, pid := range m.podProcesses(m.agent(ctx).UID) {
				names[nameOf(pid)] = true
			}
			delete(names, "sleep") // the sandbox's own
			Expect(names).To(Equal(map[string]bool{"dray-agent": true}), "nothing else is in the agent's pod")
		}
	})

	DescribeTable("leaves what runs to the next agent", func(ctx SpecContext, end func(ctx context.Context, m *machine, agent *corev1.Pod)) {
		m := h.machines[0]
		before, ours, agent := containers(ctx, "myapp"), m.slotProcesses(), m.agent(ctx)
		done := h.probing("http://" + h.drayageService(ctx, "myapp") + "/health")
		end(ctx, m, agent)
		Eventually(func() types.UID { return m.agent(ctx).UID }).ShouldNot(Or(Equal(agent.UID), BeEmpty()))
		rolledOut(ctx, namespace, "daemonset/drayage-agent")
		Eventually(nodeReady(ctx, m.name)).Should(Succeed())
		Expect(m.slotProcesses()).To(ContainElements(ours))
		Expect(containers(ctx, "myapp")).To(Equal(before))

		By("which starts others")
		name := "after-" + string(agent.UID[:8])
		next := newDeployment(name)
		next.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: m.name}
		Expect(h.api.Create(ctx, next)).To(Succeed())
		Eventually(running(ctx, name)).Should(HaveLen(1))
		Expect(h.api.Delete(ctx, next)).To(Succeed())
		Eventually(func() []dcorev1.Pod { return pods(ctx, name) }).Should(BeEmpty())
		done()
	},
		Entry("when its pod is deleted", NodeTimeout(2*time.Minute), func(ctx context.Context, _ *machine, agent *corev1.Pod) {
			Expect(h.api.Delete(ctx, agent)).To(Succeed())
		}),
		Entry("when its pod is evicted", NodeTimeout(2*time.Minute), func(ctx context.Context, _ *machine, agent *corev1.Pod) {
			eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: agent.Namespace, Name: agent.Name}}
			Expect(h.api.SubResource("eviction").Create(ctx, agent, eviction)).To(Succeed())
		}),
		Entry("when its pod is deleted by force", NodeTimeout(2*time.Minute), func(ctx context.Context, _ *machine, agent *corev1.Pod) {
			Expect(h.api.Delete(ctx, agent, client.GracePeriodSeconds(0))).To(Succeed())
		}),
		Entry("when it and the kubelet are killed", NodeTimeout(2*time.Minute), func(ctx context.Context, m *machine, agent *corev1.Pod) {
			for _, pid := range m.podProcesses(agent.UID) {
				if nameOf(pid) == "dray-agent" {
					_ = kill(pid)
				}
			}
			m.kill(m.kubelet)
			m.startKubelet()
			Expect(h.api.Delete(ctx, agent)).To(Succeed())
		}),
	)
}
