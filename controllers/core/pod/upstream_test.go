package pod

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/podgc"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// bound is how many completed pods both collectors keep.
const bound = 5

var _ = Describe("the collector, against upstream's", func() {
	It("ends the same pods of random clusters", func(ctx context.Context) {
		klog.SetLogger(logr.Discard())
		random := rand.New(rand.NewSource(GinkgoRandomSeed()))
		start := time.Now().Truncate(time.Second)
		for range 5 {
			nodes := []*corev1.Node{node("ready", corev1.ConditionTrue), node("lost", corev1.ConditionUnknown), node("off", corev1.ConditionUnknown)}
			nodes[2].Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
			var pods []*corev1.Pod
			for i := range 40 {
				pods = append(pods, randomPod(random, i, start))
			}
			Eventually(endedUpstream(ctx, nodes, pods)).Should(Equal(ended(ctx, nodes, pods)))
		}
	})
})

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
}

func randomPod(random *rand.Rand, i int, start time.Time) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint("u", i)),
		CreationTimestamp: metav1.NewTime(start.Add(-time.Duration(random.Intn(20)) * time.Hour)),
	}}
	pod.Spec.NodeName = []string{"", "ready", "ready", "ready", "lost", "off", "gone"}[random.Intn(7)]
	pod.Status.Phase = []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed}[random.Intn(5)]
	if pod.Status.Phase == corev1.PodFailed && random.Intn(3) == 0 {
		pod.Status.Reason = "Evicted"
	}
	// Upstream counts completed pods that terminate against the bound, we do not: their agents end them.
	if random.Intn(4) == 0 && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		pod.DeletionTimestamp = &metav1.Time{Time: start}
	}
	return pod
}

// ended runs our collector over the pods until nothing changes and returns those that are gone, or have
// been told to go.
func ended(ctx context.Context, nodes []*corev1.Node, pods []*corev1.Pod) []string {
	GinkgoHelper()
	builder := fake.NewClientBuilder().WithScheme(scheme.New()).WithStatusSubresource(&dcorev1.Pod{})
	for _, n := range nodes {
		builder.WithObjects(upstream.FromNode(n))
	}
	before := map[string]bool{}
	for _, p := range pods {
		ours := upstream.FromPod(p.DeepCopy())
		ours.Finalizers = []string{dcorev1.NodeFinalizer}
		builder.WithObjects(ours)
		before[p.Name] = p.DeletionTimestamp != nil
	}
	c := builder.Build()
	r := &reconciler{client: c, live: c, completed: bound, missing: newMissing(clocktesting.NewFakePassiveClock(time.Now()), 0)}
	var list dcorev1.PodList
	Expect(r.removeCompleted(ctx)).To(Succeed())
	for range 3 {
		Expect(c.List(ctx, &list)).To(Succeed())
		for i := range list.Items {
			_, err := r.collect(ctx, &list.Items[i])
			Expect(client.IgnoreNotFound(err)).To(Succeed())
		}
	}
	Expect(c.List(ctx, &list)).To(Succeed())
	stay := map[string]bool{}
	for _, p := range list.Items {
		stay[p.Name] = p.DeletionTimestamp == nil || before[p.Name]
	}
	names := []string{}
	for name := range before {
		if !stay[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// endedUpstream runs upstream's collector until the spec ends; the function that it returns names the pods
// that it has deleted so far.
func endedUpstream(ctx context.Context, nodes []*corev1.Node, pods []*corev1.Pod) func() []string {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	DeferCleanup(cancel)
	c := clientset.NewClientset()
	for _, n := range nodes {
		Expect(c.Tracker().Add(n)).To(Succeed())
	}
	for _, p := range pods {
		Expect(c.Tracker().Add(p)).To(Succeed())
	}
	factory := informers.NewSharedInformerFactory(c, 0)
	controller := podgc.NewPodGCInternal(ctx, c, factory.Core().V1().Pods(), factory.Core().V1().Nodes(), bound, 20*time.Millisecond, 0)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go controller.Run(ctx)
	return func() []string {
		names := []string{}
		for _, action := range c.Actions() {
			if action.Matches("delete", "pods") {
				names = append(names, action.(interface{ GetName() string }).GetName())
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
}
