package startup_test

import (
	"context"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"drayage.dev/scheduler/plugins/startup"
)

func TestStartup(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "startup")
}

var _ = Describe("the plugin Startup", func() {
	plugin := &startup.Plugin{}
	web := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "web:1"}, {Image: "proxy"}}}}
	node := func(ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
	}
	info := func(n *corev1.Node, pods ...*corev1.Pod) *framework.NodeInfo {
		i := framework.NewNodeInfo(pods...)
		i.SetNode(n)
		return i
	}
	score := func(i *framework.NodeInfo) int64 {
		s, status := plugin.Score(context.Background(), nil, web, i)
		Expect(status.IsSuccess()).To(BeTrue())
		return s
	}

	It("refuses nodes that say that they are not ready, also to pods that tolerate the taint", func(ctx context.Context) {
		Expect(plugin.Filter(ctx, nil, web, info(node(corev1.ConditionTrue))).IsSuccess()).To(BeTrue())
		Expect(plugin.Filter(ctx, nil, web, info(&corev1.Node{})).IsSuccess()).To(BeTrue(), "it says nothing yet")
		for _, status := range []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionUnknown} {
			refused := plugin.Filter(ctx, nil, web, info(node(status)))
			Expect(refused.Code()).To(Equal(fwk.UnschedulableAndUnresolvable), "no preemption helps")
			Expect(refused.Message()).To(Equal(startup.Refusal))
		}
	})

	It("wakes refused pods when a node becomes ready, and by nothing else", func(ctx context.Context) {
		events, err := plugin.EventsToRegister(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(events).To(HaveLen(1))
		hint := func(before, after any) fwk.QueueingHint {
			h, err := events[0].QueueingHintFn(klog.Background(), web, before, after)
			Expect(err).NotTo(HaveOccurred())
			return h
		}
		Expect(hint(node(corev1.ConditionFalse), node(corev1.ConditionTrue))).To(Equal(fwk.Queue))
		Expect(hint(nil, node(corev1.ConditionTrue))).To(Equal(fwk.Queue))
		Expect(hint(node(corev1.ConditionTrue), node(corev1.ConditionTrue))).To(Equal(fwk.QueueSkip))
		Expect(hint(node(corev1.ConditionTrue), node(corev1.ConditionFalse))).To(Equal(fwk.QueueSkip))
	})

	It("prefers nodes with images over those without, and short queues over long ones", func() {
		n := node(corev1.ConditionTrue)
		waiting := func(count int) (pods []*corev1.Pod) {
			for range count {
				pods = append(pods, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}})
			}
			return pods
		}
		with := func(images []string, pods ...*corev1.Pod) *framework.NodeInfo {
			i := info(n, pods...)
			i.ImageStates = map[string]*fwk.ImageStateSummary{}
			for _, image := range images {
				i.ImageStates[image] = &fwk.ImageStateSummary{Size: 1, NumNodes: 1}
			}
			return i
		}
		Expect(score(with([]string{"web:1", "proxy:latest"}))).To(BeEquivalentTo(fwk.MaxScore))
		Expect(score(with([]string{"web:1"}))).To(BeEquivalentTo(70))
		Expect(score(with([]string{"other:1"}))).To(BeEquivalentTo(40))
		Expect(score(with(nil, waiting(5)...))).To(BeEquivalentTo(30))
		Expect(score(with(nil, waiting(100)...))).To(BeZero())
		running := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		leaving := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}
		Expect(score(with(nil, running, leaving))).To(BeEquivalentTo(40))
	})
})
