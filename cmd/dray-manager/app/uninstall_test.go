package app

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/env"
)

var _ = Describe("what an uninstallation leaves", func() {
	It("are pods that can be deleted, and nodes of which nothing is known", func(ctx SpecContext) {
		e, err := env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(e.Stop)
		api, err := e.Client()
		Expect(err).NotTo(HaveOccurred())

		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "reported"}}
		Expect(api.Create(ctx, node)).To(Succeed())
		node.Status.Conditions = []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()},
			{Type: "Custom", Status: corev1.ConditionFalse},
		}
		node.Status.Summary.Status = "Ready"
		Expect(api.Status().Update(ctx, node)).To(Succeed())
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kept", Finalizers: []string{dcorev1.NodeFinalizer, "example.com/other"}}}
		pod.Spec.Containers = []corev1.Container{{Name: "web", Image: "web"}}
		Expect(api.Create(ctx, pod)).To(Succeed())

		Expect(release(ctx, e.Config, time.Second, 2*time.Minute)).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Expect(pod.Finalizers).To(ConsistOf("example.com/other"))
		Expect(api.Get(ctx, client.ObjectKeyFromObject(node), node)).To(Succeed())
		Expect(node.Status.Summary.Status).To(Equal("NotReady"))
		byType := map[corev1.NodeConditionType]corev1.NodeCondition{}
		for _, condition := range node.Status.Conditions {
			byType[condition.Type] = condition
		}
		Expect(byType[corev1.NodeReady]).To(And(HaveField("Status", corev1.ConditionUnknown), HaveField("Message", ContainSubstring("uninstalled"))))
		for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
			Expect(byType).To(HaveKeyWithValue(kind, HaveField("Status", corev1.ConditionUnknown)))
		}
		Expect(byType).To(HaveKeyWithValue(dcorev1.NodeStalled, HaveField("Status", corev1.ConditionTrue)))
		Expect(byType["Custom"].Status).To(Equal(corev1.ConditionFalse), "not the agent's")

		By("having nothing to do the second time")
		version := node.ResourceVersion
		Expect(release(ctx, e.Config, time.Second, 2*time.Minute)).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(node), node)).To(Succeed())
		Expect(node.ResourceVersion).To(Equal(version))
	}, SpecTimeout(10*time.Minute))
})
