package scheduler_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/scheduler"
)

var _ = Describe("profiles and explanations", func() {
	BeforeEach(func(ctx context.Context) {
		DeferCleanup(clean)
		addNode(ctx, "node-a")
		addNode(ctx, "node-b")
	})
	by := func(profile string) func(*dcorev1.Pod) {
		return func(p *dcorev1.Pod) { p.Spec.SchedulerName = profile }
	}

	It("pack pods or even out nodes, as a pod asks", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		first := nodeOf(ctx, addPod(ctx, "first", withRequest("1", "2Gi")))
		Expect(nodeOf(ctx, addPod(ctx, "packed", withRequest("1", "2Gi"), by("packed")))).To(Equal(first))
		Expect(nodeOf(ctx, addPod(ctx, "spread", withRequest("1", "2Gi")))).NotTo(Equal(first))
		// One node has 2 of 4 cores and half of its memory taken, the other a quarter of both. Much cpu and no
		// memory makes both uneven; a pod that asks for memory alone evens out the one that got it.
		uneven := nodeOf(ctx, addPod(ctx, "uneven", withRequest("2", "0"), by("balanced")))
		Expect(nodeOf(ctx, addPod(ctx, "even", withRequest("0", "3Gi"), by("balanced")))).To(Equal(uneven))
	})

	It("keep pods off nodes that are not ready, but for the default one", func(ctx context.Context) {
		startScheduler(scheduler.Config{})
		for _, name := range []string{"node-a", "node-b"} {
			node := &dcorev1.Node{}
			Expect(admin.Get(ctx, client.ObjectKey{Name: name}, node)).To(Succeed())
			node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady"}}
			Expect(admin.Status().Update(ctx, node)).To(Succeed())
			known(node)
		}
		nodeOf(ctx, addPod(ctx, "tolerant"))
		waiting := addPod(ctx, "waiting", by("prompt"))
		Expect(refusal(ctx, waiting)).To(ContainSubstring("2 node(s) were not ready to start pods"))
		Expect(refusal(ctx, addPod(ctx, "packed", by("packed")))).To(ContainSubstring("not ready to start pods"))

		node := &dcorev1.Node{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: "node-b"}, node)).To(Succeed())
		node.Status.Conditions[0].Status = corev1.ConditionTrue
		Expect(admin.Status().Update(ctx, node)).To(Succeed())
		Expect(nodeOf(ctx, waiting)).To(Equal("node-b"), "it need not wait for anything else")
	})

	It("come without the fast path, too", func(ctx context.Context) {
		startScheduler(scheduler.Config{OneByOne: true})
		Expect(nodeOf(ctx, addPod(ctx, "slow"))).To(HavePrefix("node-"))
	})

	It("say what each plugin makes of a pod on each node", func(ctx context.Context) {
		addNode(ctx, "node-tainted", withTaint("dedicated", corev1.TaintEffectNoSchedule))
		pod := addPod(ctx, "web", withRequest("5", "1Gi"))
		config := scheduler.Config{RESTConfig: rest.CopyConfig(identity)}
		e, err := scheduler.Explain(ctx, config, namespace, pod.Name)
		Expect(err).NotTo(HaveOccurred())
		Expect(e.Nodes).To(HaveLen(3))
		for _, node := range e.Nodes {
			if node.Name == "node-tainted" {
				Expect(node.RefusedBy).To(Equal("TaintToleration"))
			} else {
				Expect(node.RefusedBy).To(Equal("NodeResourcesFit"))
				Expect(node.Reasons).To(ConsistOf("Insufficient cpu"))
			}
		}

		addNode(ctx, "node-big", func(n *dcorev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = *resourceOf("16") })
		e, err = scheduler.Explain(ctx, config, namespace, pod.Name)
		Expect(err).NotTo(HaveOccurred())
		Expect(e.Nodes[0].Name).To(Equal("node-big"))
		Expect(e.Nodes[0].RefusedBy).To(BeEmpty())
		Expect(e.Plugins).To(ContainElement("NodeResourcesFit"))
		var total int64
		for _, score := range e.Nodes[0].Scores {
			total += score
		}
		Expect(e.Nodes[0].Total).To(Equal(total))

		// Once it runs there, it is not in its own way.
		startScheduler(scheduler.Config{})
		Expect(nodeOf(ctx, pod)).To(Equal("node-big"))
		e, err = scheduler.Explain(ctx, config, namespace, pod.Name)
		Expect(err).NotTo(HaveOccurred())
		Expect(e.Pod.Spec.NodeName).To(Equal("node-big"))
		Expect(e.Nodes[0].Name).To(Equal("node-big"))
		Expect(e.Nodes[0].RefusedBy).To(BeEmpty())

		_, err = scheduler.Explain(ctx, config, namespace, "none")
		Expect(err).To(MatchError(ContainSubstring("reading the pod")))
		addPod(ctx, "foreign", by("somebody-else"))
		_, err = scheduler.Explain(ctx, config, namespace, "foreign")
		Expect(err).To(MatchError(ContainSubstring(`no profile is called "somebody-else"`)))
	})
})
