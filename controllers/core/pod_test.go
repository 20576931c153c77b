package core_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/changes"
)

func gone(ctx context.Context, object client.Object) func() bool {
	return func() bool {
		return apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(object), object))
	}
}

var _ = Describe("the collector of pods", func() {
	var namespace string

	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	It("ends a pod that never had a node, and not one that has", func(ctx context.Context) {
		node := addNode(ctx, "alive", "192.0.2.1", corev1.ConditionTrue)
		waiting, bound := pod(namespace, "waiting", "web", ""), pod(namespace, "bound", "web", node.Name)
		for _, p := range []*dcorev1.Pod{waiting, bound} {
			Expect(api.Create(ctx, p)).To(Succeed())
			Expect(p.Finalizers).To(ContainElement(dcorev1.NodeFinalizer))
			Expect(api.Delete(ctx, p)).To(Succeed())
		}
		DeferCleanup(func(ctx context.Context) { removePod(ctx, bound) })
		Eventually(gone(ctx, waiting)).Should(BeTrue())
		Consistently(gone(ctx, bound)).Should(BeFalse())
	})

	It("ends the pods of a node that is deleted, terminating or not, after a while", func(ctx context.Context) {
		node := addNode(ctx, "leaves", "192.0.2.1", corev1.ConditionTrue)
		running := runPod(ctx, pod(namespace, "running", "web", node.Name), "10.244.0.1", true)
		ending := runPod(ctx, pod(namespace, "ending", "web", node.Name), "10.244.0.2", true)
		Expect(api.Delete(ctx, ending)).To(Succeed())
		watch, err := changes.Of(ctx, api, &dcorev1.PodList{}, client.InNamespace(namespace), client.MatchingFields{"metadata.name": "running"})
		Expect(err).NotTo(HaveOccurred())
		defer watch.Stop()
		missing := time.Now()
		Expect(api.Delete(ctx, node)).To(Succeed())
		Eventually(gone(ctx, running)).Should(BeTrue())
		Expect(time.Since(missing)).To(BeNumerically(">=", quarantine))
		Eventually(gone(ctx, ending)).Should(BeTrue())
		var failed bool
		for event := range watch.ResultChan() {
			p, ok := event.Object.(*dcorev1.Pod)
			Expect(ok).To(BeTrue(), "%v", event.Object)
			failed = failed || p.Status.Phase == corev1.PodFailed && p.DeletionTimestamp == nil
			if event.Type == "DELETED" {
				Expect(p.Status.Conditions).To(ContainElement(And(HaveField("Type", corev1.DisruptionTarget), HaveField("Reason", dcorev1.PodDeletionByPodGC))))
				break
			}
		}
		Expect(failed).To(BeTrue(), "it fails before it is deleted")
	})

	It("lets the pods of a node be that comes back in time", func(ctx context.Context) {
		node := addNode(ctx, "again", "192.0.2.1", corev1.ConditionTrue)
		p := runPod(ctx, pod(namespace, "p", "web", node.Name), "10.244.0.1", true)
		Expect(api.Delete(ctx, node)).To(Succeed())
		Consistently(gone(ctx, p), quarantine/10).Should(BeFalse())
		again := &dcorev1.Node{}
		again.Name = node.Name
		create(ctx, again)
		Consistently(gone(ctx, p), quarantine*3/2).Should(BeFalse())
		Expect(p.DeletionTimestamp).To(BeNil())
	})

	It("ends a pod at once whose deletion leaves it no time", func(ctx context.Context) {
		node := addNode(ctx, "forced", "192.0.2.1", corev1.ConditionTrue)
		p := runPod(ctx, pod(namespace, "p", "web", node.Name), "10.244.0.1", true)
		Expect(api.Delete(ctx, p)).To(Succeed())
		Consistently(gone(ctx, p), "200ms").Should(BeFalse())
		edit(ctx, p, func(p *dcorev1.Pod) {
			p.Annotations = map[string]string{dcorev1.DeletionGracePeriodAnnotation: "0"}
		})
		Eventually(gone(ctx, p)).Should(BeTrue())
	})

	It("shows that a pod terminates whose node is lost, and ends it when somebody vouches that the node is off", func(ctx context.Context) {
		addNode(ctx, "fine", "192.0.2.2", corev1.ConditionTrue)
		node := addNode(ctx, "broken", "192.0.2.1", corev1.ConditionFalse)
		p := runPod(ctx, pod(namespace, "p", "web", node.Name), "10.244.0.1", false)
		Expect(api.Delete(ctx, p)).To(Succeed())
		Eventually(reading(p)).WithContext(ctx).Should(HaveField("Status.Summary.Status", "Terminating"))
		edit(ctx, node, func(n *dcorev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
		})
		Eventually(gone(ctx, p)).Should(BeTrue())
	})
})
