package core_test

import (
	"context"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/internal/upstream"
)

// taintsOf lists a node's taints as "key:effect".
func taintsOf(n *dcorev1.Node) []string {
	list := []string{}
	for _, taint := range n.Spec.Taints {
		list = append(list, taint.Key+":"+string(taint.Effect))
	}
	return list
}

func haveTaints(taints ...any) OmegaMatcher { return WithTransform(taintsOf, ConsistOf(taints...)) }

const (
	notReady     = "node.kubernetes.io/not-ready:NoSchedule"
	notReadyOut  = "node.kubernetes.io/not-ready:NoExecute"
	unreachable  = "node.kubernetes.io/unreachable:NoSchedule"
	unreachOut   = "node.kubernetes.io/unreachable:NoExecute"
	unscheduable = "node.kubernetes.io/unschedulable:NoSchedule"
)

func tolerating(p *dcorev1.Pod, key string, seconds *int64) *dcorev1.Pod {
	p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{
		Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds})
	return p
}

func beDeleted() OmegaMatcher { return HaveField("DeletionTimestamp", Not(BeNil())) }

func beReadyPod() OmegaMatcher {
	return WithTransform(func(p *dcorev1.Pod) bool { return podutil.IsPodReady(upstream.Pod(p)) }, BeTrue())
}

var _ = Describe("a Node", func() {
	It("gets a range of pod addresses of its own and gives it back", func(ctx context.Context) {
		a, b := addNode(ctx, "cidr-a", "192.0.2.1", corev1.ConditionTrue), addNode(ctx, "cidr-b", "192.0.2.2", corev1.ConditionTrue)
		for _, n := range []*dcorev1.Node{a, b} {
			Eventually(reading(n)).WithContext(ctx).Should(HaveField("Spec.PodCIDR", Not(BeEmpty())))
			share := netip.MustParsePrefix(n.Spec.PodCIDR)
			Expect(share.Bits()).To(Equal(24))
			Expect(netip.MustParsePrefix(podCIDR).Overlaps(share)).To(BeTrue())
			Expect(n.Spec.PodCIDRs).To(Equal([]string{n.Spec.PodCIDR}))
		}
		Expect(a.Spec.PodCIDR).NotTo(Equal(b.Spec.PodCIDR))
		held := func() []string {
			var list dnetworkingv1alpha1.AllocationList
			Expect(api.List(ctx, &list)).To(Succeed())
			owners := []string{}
			for _, claim := range list.Items {
				if claim.Spec.Owner.Kind == "Node" {
					owners = append(owners, claim.Spec.Owner.Name+"="+claim.Spec.Value)
				}
			}
			return owners
		}
		Expect(held()).To(ContainElements("cidr-a="+a.Spec.PodCIDR, "cidr-b="+b.Spec.PodCIDR))
		Expect(api.Delete(ctx, a)).To(Succeed())
		Eventually(held).ShouldNot(ContainElement("cidr-a=" + a.Spec.PodCIDR))
	})

	It("gets no range that overlaps one of another size, which a cluster begun with other shares has", func(ctx context.Context) {
		wide := &dcorev1.Node{}
		wide.Name, wide.Spec.PodCIDR = "cidr-wide", "10.244.0.0/21"
		wide.Spec.PodCIDRs = []string{wide.Spec.PodCIDR}
		create(ctx, wide)
		Eventually(func() []string {
			var list dnetworkingv1alpha1.AllocationList
			Expect(api.List(ctx, &list)).To(Succeed())
			var values []string
			for _, claim := range list.Items {
				values = append(values, claim.Spec.Value)
			}
			return values
		}).Should(ContainElement(wide.Spec.PodCIDR))
		n := addNode(ctx, "cidr-beside", "192.0.2.7", corev1.ConditionTrue)
		Eventually(reading(n)).WithContext(ctx).Should(HaveField("Spec.PodCIDR", Not(BeEmpty())))
		Expect(netip.MustParsePrefix(wide.Spec.PodCIDR).Overlaps(netip.MustParsePrefix(n.Spec.PodCIDR))).To(BeFalse())
	})

	It("is kept free of pods until it is ready, and while it is cordoned, and says so", func(ctx context.Context) {
		addNode(ctx, "healthy", "192.0.2.2", corev1.ConditionTrue)
		n := &dcorev1.Node{}
		n.Name, n.Labels = "new", map[string]string{"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/gpu": "", "kubernetes.io/role": "old"}
		renewLease(n.Name)
		create(ctx, n)
		Eventually(reading(n)).WithContext(ctx).Should(haveTaints(notReady))
		Eventually(reading(n)).WithContext(ctx).Should(HaveField("Status.Summary", Equal(dcorev1.NodeSummary{Status: "Unknown", Roles: "gpu,old,worker"})))

		editStatus(ctx, n, func(n *dcorev1.Node) { setNodeReady(n, corev1.ConditionTrue) })
		Eventually(reading(n)).WithContext(ctx).Should(And(haveTaints(), HaveField("Status.Summary.Status", "Ready")))
		edit(ctx, n, func(n *dcorev1.Node) {
			n.Spec.Unschedulable = true
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoSchedule})
		})
		Eventually(reading(n)).WithContext(ctx).Should(And(haveTaints("mine:NoSchedule", unscheduable), HaveField("Status.Summary.Status", "Ready,SchedulingDisabled")))
		Eventually(reading(n)).WithContext(ctx).Should(WithTransform(func(n *dcorev1.Node) bool { return n.Status.ObservedGeneration == n.Generation }, BeTrue()))
		editStatus(ctx, n, func(n *dcorev1.Node) {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
		})
		Eventually(reading(n)).WithContext(ctx).Should(haveTaints("mine:NoSchedule", unscheduable, "node.kubernetes.io/disk-pressure:NoSchedule"))
		edit(ctx, n, func(n *dcorev1.Node) { n.Spec.Unschedulable = false })
		editStatus(ctx, n, func(n *dcorev1.Node) { setNodeReady(n, corev1.ConditionFalse) })
		Eventually(reading(n)).WithContext(ctx).Should(And(haveTaints("mine:NoSchedule", notReady, notReadyOut), HaveField("Status.Summary.Status", "NotReady")))
	})

	It("that is not heard of any more loses its endpoints at once and its pods after their patience; back again it is as before", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		addNode(ctx, "other", "192.0.2.2", corev1.ConditionTrue)
		n, die := addMortalNode(ctx, "mortal", "192.0.2.1", corev1.ConditionTrue)
		s := service(namespace, "web")
		create(ctx, s)
		stays := runPod(ctx, pod(namespace, "stays", "web", n.Name), "10.244.0.1", true)
		leaves := runPod(ctx, tolerating(pod(namespace, "leaves", "web", n.Name), corev1.TaintNodeUnreachable, ptr.To[int64](1)), "10.244.0.2", true)
		elsewhere := runPod(ctx, pod(namespace, "elsewhere", "web", "other"), "10.244.0.3", true)
		Eventually(endpoints(ctx, s)).Should(HaveLen(3))
		Consistently(reading(n), nodeGrace*5/4).WithContext(ctx).Should(HaveField("Status.Conditions", ConsistOf(HaveField("Status", corev1.ConditionTrue))))

		// The last renewal may have been a little before.
		stopped := time.Now()
		die()
		Eventually(reading(n)).WithContext(ctx).Should(And(haveTaints(unreachable, unreachOut), HaveField("Status.Summary.Status", "NotReady")))
		Expect(time.Since(stopped)).To(BeNumerically(">", nodeGrace/2))
		Expect(n.Status.Conditions).To(HaveEach(Or(HaveField("Status", corev1.ConditionUnknown), HaveField("Type", dcorev1.NodeStalled))))
		Expect(n.Status.Conditions).To(ContainElement(And(HaveField("Type", dcorev1.NodeStalled), HaveField("Reason", dcorev1.NodeStatusUnknown))))
		Expect(n.Status.Conditions).To(ContainElement(And(HaveField("Type", corev1.NodeReady), HaveField("Reason", dcorev1.NodeStatusUnknown))))
		Eventually(endpoints(ctx, s)).Should(ConsistOf("10.244.0.1 false false false", "10.244.0.3 true true false", HavePrefix("10.244.0.2 false false")))
		Eventually(reading(leaves)).WithContext(ctx).Should(beDeleted())
		Expect(leaves.Status.Conditions).To(ContainElement(And(HaveField("Type", corev1.DisruptionTarget), HaveField("Reason", dcorev1.PodDeletionByTaintManager))))
		Expect(reading(stays)(ctx)).To(And(Not(beDeleted()), Not(beReadyPod())), "300 seconds of patience are every pod's default")
		Expect(reading(elsewhere)(ctx)).To(beReadyPod())
		Eventually(func() []string { return events(ctx, namespace) }).Should(ContainElement("TaintManagerEviction: Marking for deletion Pod " + namespace + "/leaves"))

		renewLease(n.Name)
		editStatus(ctx, n, func(n *dcorev1.Node) { setNodeReady(n, corev1.ConditionTrue) })
		editStatus(ctx, stays, func(p *dcorev1.Pod) { setReady(p, true) })
		Eventually(reading(n)).WithContext(ctx).Should(haveTaints())
		Eventually(reading(n)).WithContext(ctx).Should(HaveField("Status.Conditions", Not(ContainElement(HaveField("Type", dcorev1.NodeStalled)))))
		Consistently(reading(n), nodeGrace*5/4).WithContext(ctx).Should(haveTaints())
		Eventually(endpoints(ctx, s)).Should(ContainElement("10.244.0.1 true true false"))
	})

	It("keeps its pods when no node at all is heard of", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		n, die := addMortalNode(ctx, "last", "192.0.2.1", corev1.ConditionTrue)
		p := runPod(ctx, tolerating(pod(namespace, "p", "web", n.Name), corev1.TaintNodeUnreachable, ptr.To[int64](0)), "10.244.0.1", true)
		die()
		Eventually(reading(n)).WithContext(ctx).Should(haveTaints(unreachable))
		Consistently(reading(p), nodeGrace).WithContext(ctx).ShouldNot(beDeleted())
		Expect(reading(n)(ctx)).To(haveTaints(unreachable))
	})

	It("that people taint loses the pods that do not bear it, each in its time", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		n := addNode(ctx, "drained", "192.0.2.1", corev1.ConditionTrue)
		now := runPod(ctx, pod(namespace, "now", "web", n.Name), "10.244.0.1", true)
		soon := runPod(ctx, tolerating(pod(namespace, "soon", "web", n.Name), "mine", ptr.To[int64](2)), "10.244.0.2", true)
		never := runPod(ctx, tolerating(pod(namespace, "never", "web", n.Name), "mine", nil), "10.244.0.3", true)
		tainted := time.Now()
		edit(ctx, n, func(n *dcorev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute})
		})
		Eventually(reading(now)).WithContext(ctx).Should(beDeleted())
		Eventually(reading(soon)).WithContext(ctx).Should(beDeleted())
		Expect(time.Since(tainted)).To(BeNumerically(">=", 2*time.Second))
		Consistently(reading(never)).WithContext(ctx).ShouldNot(beDeleted())

		late := runPod(ctx, pod(namespace, "late", "web", n.Name), "10.244.0.4", true)
		Eventually(reading(late)).WithContext(ctx).Should(beDeleted(), "a pod that comes to a tainted node")
	})

	It("whose range another node has hears of it", func(ctx context.Context) {
		a := addNode(ctx, "twin-a", "192.0.2.1", corev1.ConditionTrue)
		Eventually(reading(a)).WithContext(ctx).Should(HaveField("Spec.PodCIDR", Not(BeEmpty())))
		b := &dcorev1.Node{}
		b.Name, b.Spec.PodCIDR, b.Spec.PodCIDRs = "twin-b", a.Spec.PodCIDR, a.Spec.PodCIDRs
		create(ctx, b)
		Eventually(func() []string {
			var list corev1.EventList
			Expect(api.List(ctx, &list, client.MatchingFields{"involvedObject.name": "twin-b"})).To(Succeed())
			messages := []string{}
			for _, event := range list.Items {
				messages = append(messages, event.Message)
			}
			return messages
		}).Should(ContainElement(ContainSubstring("podCIDR " + a.Spec.PodCIDR + " is already allocated to Node twin-a")))
	})
})
