package scheduler_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/scheduler"
)

var _ = Describe("a pod's constraints", func() {
	BeforeEach(func() {
		DeferCleanup(clean)
		startScheduler(scheduler.Config{})
	})

	web := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}

	It("are counted per reason when no node satisfies them, until one does", func(ctx context.Context) {
		addNode(ctx, "small-1")
		addNode(ctx, "small-2")
		addNode(ctx, "tainted", withTaint("dedicated", corev1.TaintEffectNoSchedule))
		pod := addPod(ctx, "web", withRequest("6", "1Gi"))
		message := refusal(ctx, pod)
		Expect(message).To(HavePrefix("0/3 nodes are available: "))
		Expect(message).To(ContainSubstring("2 Insufficient cpu"))
		Expect(message).To(ContainSubstring("1 node(s) had untolerated taint(s)"))
		Expect(get(ctx, pod).Status.Summary.Status).To(Equal("Pending"))

		Eventually(func(g Gomega) {
			events := eventsOf(ctx, pod, "FailedScheduling")
			g.Expect(events).NotTo(BeEmpty())
			g.Expect(events[0].Note).To(HavePrefix("0/3 nodes are available: "))
			g.Expect(events[0].Type).To(Equal(corev1.EventTypeWarning))
			g.Expect(events[0].Regarding.APIVersion).To(Equal("core.drayage.dev/v1"))
		}, patience).Should(Succeed())

		addNode(ctx, "large", func(n *dcorev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = *resourceOf("8") })
		Expect(nodeOf(ctx, pod)).To(Equal("large"))
		Eventually(func() corev1.ConditionStatus { return scheduledCondition(get(ctx, pod)).Status }, patience).
			Should(Equal(corev1.ConditionTrue))
	})

	It("say that there are no nodes", func(ctx context.Context) {
		pod := addPod(ctx, "web")
		Expect(refusal(ctx, pod)).To(ContainSubstring("no nodes available to schedule pods"))
		addNode(ctx, "node-1")
		Expect(nodeOf(ctx, pod)).To(Equal("node-1"))
	})

	It("keep pods off tainted and cordoned nodes unless they tolerate it", func(ctx context.Context) {
		addNode(ctx, "tainted", withTaint("dedicated", corev1.TaintEffectNoSchedule))
		addNode(ctx, "cordoned", func(n *dcorev1.Node) { n.Spec.Unschedulable = true })
		pod := addPod(ctx, "plain")
		Expect(refusal(ctx, pod)).To(And(HavePrefix("0/2 nodes are available: "), ContainSubstring("1 node(s) were unschedulable")))
		tolerant := addPod(ctx, "tolerant", func(p *dcorev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
		})
		Expect(nodeOf(ctx, tolerant)).To(Equal("tainted"))
	})

	It("choose nodes by selector, required and preferred affinity", func(ctx context.Context) {
		addNode(ctx, "hdd", withNodeLabel("disk", "hdd"))
		addNode(ctx, "ssd", withNodeLabel("disk", "ssd"))
		addNode(ctx, "none")
		disk := func(values ...string) corev1.NodeSelectorTerm {
			return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: values},
			}}
		}
		Expect(nodeOf(ctx, addPod(ctx, "selector", func(p *dcorev1.Pod) {
			p.Spec.NodeSelector = map[string]string{"disk": "hdd"}
		}))).To(Equal("hdd"))
		Expect(nodeOf(ctx, addPod(ctx, "preferred", func(p *dcorev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
					NodeSelectorTerms: []corev1.NodeSelectorTerm{disk("ssd", "hdd")},
				},
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
					{Weight: 100, Preference: disk("ssd")},
				},
			}}
		}))).To(Equal("ssd"))
		nowhere := addPod(ctx, "nowhere", func(p *dcorev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "tape"} })
		Expect(refusal(ctx, nowhere)).To(ContainSubstring("3 node(s) didn't match Pod's node affinity/selector"))
	})

	It("hold pods apart by required anti-affinity, and prefer it when they only prefer it", func(ctx context.Context) {
		addNode(ctx, "node-1")
		addNode(ctx, "node-2")
		term := corev1.PodAffinityTerm{LabelSelector: web, TopologyKey: corev1.LabelHostname}
		apart := func(p *dcorev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term},
			}}
		}
		first := nodeOf(ctx, addPod(ctx, "web-1", apart))
		second := addPod(ctx, "web-2", apart)
		Expect(nodeOf(ctx, second)).NotTo(Equal(first))
		third := addPod(ctx, "web-3", apart)
		Expect(refusal(ctx, third)).To(ContainSubstring("2 node(s) didn't match pod anti-affinity rules"))

		// The place of a pod that is gone is free at once.
		end(ctx, get(ctx, second))
		Expect(nodeOf(ctx, third)).NotTo(Equal(first))
	})

	It("put pods where their companions are", func(ctx context.Context) {
		for i := range 3 {
			addNode(ctx, fmt.Sprintf("node-%d", i))
		}
		companion := addPod(ctx, "cache", withLabel("app", "cache"))
		term := corev1.PodAffinityTerm{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cache"}}, TopologyKey: corev1.LabelHostname,
		}
		pod := addPod(ctx, "web", func(p *dcorev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term},
			}}
		})
		Expect(nodeOf(ctx, pod)).To(Equal(nodeOf(ctx, companion)))
	})

	It("spread pods over zones, and wait where they cannot", func(ctx context.Context) {
		addNode(ctx, "west-1", withNodeLabel(corev1.LabelTopologyZone, "west"))
		addNode(ctx, "west-2", withNodeLabel(corev1.LabelTopologyZone, "west"))
		addNode(ctx, "east-1", withNodeLabel(corev1.LabelTopologyZone, "east"),
			func(n *dcorev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = *resourceOf("1") })
		spread := func(p *dcorev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone,
				WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: web,
			}}
		}
		zones := map[string]int{}
		for i := range 3 {
			zones[nodeOf(ctx, addPod(ctx, fmt.Sprintf("web-%d", i), spread))[:4]]++
		}
		Expect(zones).To(Equal(map[string]int{"west": 2, "east": 1}))
		Expect(refusal(ctx, addPod(ctx, "web-3", spread))).To(And(
			ContainSubstring("1 Too many pods"),
			ContainSubstring("2 node(s) didn't match pod topology spread constraints"),
		))
	})

	// Two nodes: one nearly empty, one better off in no respect but that it has no pod of the set. Only the
	// default constraints, which need the ReplicaSet's (or the Service's) selector, choose the second.
	Context("by the system's default", func() {
		var set *dappsv1.ReplicaSet
		const owned = 4

		BeforeEach(func(ctx context.Context) {
			addNode(ctx, "free", withNodeLabel(corev1.LabelTopologyZone, "west"))
			addNode(ctx, "busy", withNodeLabel(corev1.LabelTopologyZone, "east"))
			addPod(ctx, "load", withLabel("app", "load"), withRequest("500m", "1Gi"), func(p *dcorev1.Pod) { p.Spec.NodeName = "busy" })
		})

		It("spreads the pods of a ReplicaSet", func(ctx context.Context) {
			set = addReplicaSet(ctx, "web", map[string]string{"app": "web"})
			for i := range owned {
				addPod(ctx, fmt.Sprintf("web-%d", i), withOwner(set, dappsv1.GroupVersion.String(), "ReplicaSet"),
					func(p *dcorev1.Pod) { p.Spec.NodeName = "free" })
			}
			alone := addPod(ctx, "alone", withLabel("app", "alone"))
			Expect(nodeOf(ctx, alone)).To(Equal("free"))
			next := addPod(ctx, "next", withOwner(set, dappsv1.GroupVersion.String(), "ReplicaSet"))
			Expect(nodeOf(ctx, next)).To(Equal("busy"))
		})

		It("spreads the pods of a Service", func(ctx context.Context) {
			service := &dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}}
			service.Spec.Selector = map[string]string{"app": "web"}
			service.Spec.Ports = []corev1.ServicePort{{Port: 80}}
			Expect(admin.Create(ctx, service)).To(Succeed())
			known(service)
			for i := range owned {
				addPod(ctx, fmt.Sprintf("web-%d", i), func(p *dcorev1.Pod) { p.Spec.NodeName = "free" })
			}
			alone := addPod(ctx, "alone", withLabel("app", "alone"))
			Expect(nodeOf(ctx, alone)).To(Equal("free"))
			Expect(nodeOf(ctx, addPod(ctx, "next"))).To(Equal("busy"))
		})
	})
})
