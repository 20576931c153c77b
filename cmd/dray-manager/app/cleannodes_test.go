package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("cleaning the nodes of a cluster", func() {
	const namespace = "drayage-system"
	node := func(name string, labels map[string]string, ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	start := func(objects ...runtime.Object) (*nodeCleaner, *fake.Clientset) {
		pod, err := parsePod(`{apiVersion: v1, kind: Pod, metadata: {namespace: drayage-system}, spec: {containers: [{name: clean, image: drayage}]}}`)
		Expect(err).NotTo(HaveOccurred())
		clean, err := newNodeCleaner(pod, "agents=yes")
		Expect(err).NotTo(HaveOccurred())
		cluster := fake.NewClientset(objects...)
		clean.client = cluster
		scheme := metadatafake.NewTestScheme()
		Expect(metav1.AddMetaToScheme(scheme)).To(Succeed())
		clean.metadata = metadatafake.NewSimpleMetadataClient(scheme, &metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{APIVersion: dcorev1.GroupVersion.String(), Kind: "Node"},
			ObjectMeta: metav1.ObjectMeta{Name: "relabelled"},
		})
		return clean, cluster
	}
	run := func(ctx context.Context, clean *nodeCleaner) chan error {
		ended := make(chan error, 1)
		go func() { ended <- clean.run(ctx) }()
		return ended
	}
	pods := func(ctx context.Context, cluster *fake.Clientset) func() map[string]*corev1.Pod {
		return func() map[string]*corev1.Pod {
			found := map[string]*corev1.Pod{}
			list, err := cluster.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			Expect(err).NotTo(HaveOccurred())
			for i := range list.Items {
				found[list.Items[i].Spec.NodeName] = &list.Items[i]
			}
			return found
		}
	}

	It("runs a pod on each node that has had an agent, and ends when all have succeeded", func(ctx SpecContext) {
		clean, cluster := start(node("a", map[string]string{"agents": "yes"}, corev1.ConditionTrue),
			node("relabelled", nil, corev1.ConditionTrue), node("other", nil, corev1.ConditionTrue))
		// The fake API server makes no names of generateName.
		names := 0
		cluster.PrependReactor("create", "pods", nameThem(&names))
		ended := run(ctx, clean)
		Eventually(pods(ctx, cluster)).Should(And(HaveLen(2), HaveKey("a"), HaveKey("relabelled")))
		for _, pod := range pods(ctx, cluster)() {
			Expect(pod.Spec.Tolerations).To(ConsistOf(corev1.Toleration{Operator: corev1.TolerationOpExists}))
			Consistently(ended, 100*time.Millisecond).ShouldNot(Receive())
			pod.Status.Phase = corev1.PodSucceeded
			_, err := cluster.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
			Expect(err).NotTo(HaveOccurred())
		}
		Eventually(ended).Should(Receive(BeNil()))
		// The fake API server does not do it: it is asked to, before and after.
		deletions := slices.DeleteFunc(cluster.Actions(), func(action clienttesting.Action) bool { return action.GetVerb() != "delete-collection" })
		Expect(deletions).To(HaveLen(2))
	}, NodeTimeout(3*time.Minute))

	It("names the nodes that it could not clean, and why", func(ctx SpecContext) {
		clean, cluster := start(node("away", map[string]string{"agents": "yes"}, corev1.ConditionUnknown),
			node("stuck", map[string]string{"agents": "yes"}, corev1.ConditionTrue))
		names := 0
		cluster.PrependReactor("create", "pods", nameThem(&names))
		bounded, cancel := context.WithTimeout(ctx, 6*time.Second)
		defer cancel()
		Expect(clean.run(bounded)).To(MatchError(And(ContainSubstring("node away: it is not Ready"),
			ContainSubstring("node stuck: its pod clean-1 was not taken up by the kubelet"), ContainSubstring("dray-agent clean --purge"))))
	}, NodeTimeout(3*time.Minute))

	It("refuses a template that is no pod", func() {
		_, err := parsePod("{kind: Pod, spek: {}}")
		Expect(err).To(HaveOccurred())
	})
})

func nameThem(count *int) clienttesting.ReactionFunc {
	return func(action clienttesting.Action) (bool, runtime.Object, error) {
		pod := action.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
		if pod.Name == "" {
			*count++
			pod.Name = fmt.Sprintf("clean-%d", *count)
		}
		return false, nil, nil
	}
}
