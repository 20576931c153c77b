package node

import (
	"context"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	upstreamcontroller "k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/tainteviction"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/core/claims"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

const grace = 40 * time.Second

var _ = Describe("heartbeats", func() {
	var (
		clock *clocktesting.FakePassiveClock
		beats *heartbeats
	)

	BeforeEach(func() {
		clock = clocktesting.NewFakePassiveClock(time.Now())
		beats = newHeartbeats(clock, grace)
	})

	// pass lets time pass, with the API in reach.
	pass := func(d time.Duration) {
		for ; d > 0; d -= 5 * time.Second {
			clock.SetTime(clock.Now().Add(min(d, 5*time.Second)))
			beats.reached()
		}
	}

	It("give a node its grace since its lease was last seen to change, whatever its clock says", func() {
		beats.observe("a", time.Unix(0, 0))
		Expect(beats.silence("a")).To(Equal(grace))
		pass(30 * time.Second)
		beats.observe("a", time.Unix(0, 0)) // seen again, not renewed
		Expect(beats.silence("a")).To(Equal(10 * time.Second))
		beats.observe("a", time.Unix(10, 0))
		Expect(beats.silence("a")).To(Equal(grace))
		pass(40 * time.Second)
		Expect(beats.silence("a")).To(BeZero())
		beats.reported("a")
		Expect(beats.silence("a")).To(Equal(grace))
	})

	It("give a node that was never heard of its grace", func() {
		pass(time.Hour)
		Expect(beats.silence("new")).To(Equal(grace))
		pass(grace)
		Expect(beats.silence("new")).To(BeZero())
	})

	It("find nobody gone while the API is away, and begin anew after it", func() {
		beats.observe("a", time.Unix(0, 0))
		pass(35 * time.Second)
		clock.SetTime(clock.Now().Add(10 * time.Minute))
		Expect(beats.silence("a")).To(BeNumerically(">", 0))
		beats.reached()
		Expect(beats.silence("a")).To(Equal(grace))
		Expect(beats.settled()).To(Equal(clock.Now().Add(grace)))
		pass(grace)
		Expect(beats.silence("a")).To(BeZero())
	})

	It("take short absences of the API for nothing", func() {
		beats.observe("a", time.Unix(0, 0))
		clock.SetTime(clock.Now().Add(9 * time.Second))
		beats.reached()
		Expect(beats.silence("a")).To(Equal(31 * time.Second))
	})
})

var _ = Describe("a node that seems gone", func() {
	It("is asked for at the API itself, whose watch may be behind", func(ctx context.Context) {
		clock := clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: "a"}}
		lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(clock.Now()))
		api := ctrlfake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(lease).Build()
		r := &reconciler{live: api, heartbeats: newHeartbeats(clock, grace)}
		r.heartbeats.observe("a", clock.Now())
		for range 9 {
			clock.SetTime(clock.Now().Add(5 * time.Second))
			r.heartbeats.reached()
		}
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
		Expect(r.silence(ctx, node)).To(BeNumerically("<=", 0), "it has not renewed")
		lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(clock.Now()))
		Expect(api.Update(ctx, lease)).To(Succeed())
		Expect(r.silence(ctx, node)).To(Equal(grace), "it has, and nobody told us")
	})
})

var _ = DescribeTable("disruption", func(nodes, lost int, expected disruption) {
	Expect(disruptionOf(nodes, lost)).To(Equal(expected))
},
	Entry("no nodes", 0, 0, disruption{rate: usualRate}),
	Entry("one of two", 2, 1, disruption{rate: usualRate}),
	Entry("the only one", 1, 1, disruption{total: true}),
	Entry("all", 100, 100, disruption{total: true}),
	Entry("two of three", 3, 2, disruption{rate: usualRate}),
	Entry("most of a small cluster", 5, 3, disruption{}),
	Entry("less than the share", 50, 27, disruption{rate: usualRate}),
	Entry("most of a large cluster", 60, 40, disruption{rate: secondaryRate}),
)

var _ = Describe("throttle", func() {
	It("lets one node go every ten seconds, and none while most are lost", func() {
		t, now := newThrottle(), time.Now()
		usual := disruption{rate: usualRate}
		Expect(t.allow(now, usual)).To(BeTrue())
		Expect(t.allow(now.Add(9*time.Second), usual)).To(BeFalse())
		Expect(t.allow(now.Add(11*time.Second), disruption{})).To(BeFalse())
		Expect(t.allow(now.Add(11*time.Second), usual)).To(BeTrue())
	})
})

var _ = Describe("taintsOf", func() {
	It("carries the time of an eviction over when a node goes from not ready to unreachable", func() {
		start := metav1.NewTime(time.Now().Add(-time.Minute))
		node := &dcorev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{
			{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute, TimeAdded: &start},
			{Key: "mine", Effect: corev1.TaintEffectNoExecute},
		}}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
		taints := taintsOf(node, keepEviction, time.Now())
		Expect(taints).To(ContainElements(
			corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &start},
			corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute}))
		Expect(taints).To(HaveLen(3))
		Expect(taintsOf(node, stopEviction, time.Now())).To(HaveLen(2))
	})
})

var _ = Describe("podRange", func() {
	It("is cut into shares that do not overlap and fill it", func() {
		for _, c := range []struct {
			cidr        string
			bits, count int
			first, last string
		}{
			{"10.244.0.0/16", 0, 256, "10.244.0.0/24", "10.244.255.0/24"},
			{"10.244.16.0/20", 26, 64, "10.244.16.0/26", "10.244.31.192/26"},
			{"fd00:1::/48", 0, 65536, "fd00:1::/64", "fd00:1:0:ffff::/64"},
		} {
			r, err := newPodRange(c.cidr, c.bits)
			Expect(err).NotTo(HaveOccurred())
			shares := slices.Collect(r.each)
			Expect(shares).To(HaveLen(c.count))
			Expect(shares[0]).To(Equal(netip.MustParsePrefix(c.first)))
			Expect(shares[c.count-1]).To(Equal(netip.MustParsePrefix(c.last)))
		}
		_, err := newPodRange("10.244.0.0/28", 24)
		Expect(err).To(MatchError(ContainSubstring("has no shares of /24")))
	})
})

var _ = Describe("the range of a new node", func() {
	It("overlaps with none that another node came with, claimed or not", func(ctx context.Context) {
		wide := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "wide"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/21"}}
		fresh := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "fresh", UID: "1"}}
		builder := ctrlfake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(wide, fresh)
		Expect(claims.Index(ctx, builderIndexer{builder})).To(Succeed())
		api := builder.Build()
		shares, err := newPodRange("10.244.0.0/16", 0)
		Expect(err).NotTo(HaveOccurred())
		r := &reconciler{client: api, claims: &claims.Claims{Client: api, Live: api}, podRange: shares}
		Expect(r.ensureCIDR(ctx, fresh)).To(Succeed())
		Expect(fresh.Spec.PodCIDR).To(Equal("10.244.8.0/24"))
	})
})

// builderIndexer lets a fake client have the index of a manager's cache.
type builderIndexer struct{ *ctrlfake.ClientBuilder }

func (b builderIndexer) IndexField(_ context.Context, object client.Object, field string, extract client.IndexerFunc) error {
	b.WithIndex(object, field, extract)
	return nil
}

var _ = Describe("evictAt, against upstream's taint eviction controller", func() {
	It("makes the same pods leave at once, and leaves the others", func(ctx context.Context) {
		random := rand.New(rand.NewSource(GinkgoRandomSeed()))
		keys := []string{"a", "b", "c"}
		for range 8 {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
			for _, key := range keys {
				if random.Intn(2) == 0 {
					node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: key, Value: "v", Effect: corev1.TaintEffectNoExecute})
				}
			}
			clientset := fake.NewClientset(node)
			var pods []*corev1.Pod
			for i := range 40 {
				pod := &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint(i))},
					Spec:       corev1.PodSpec{NodeName: "n"},
				}
				for range random.Intn(4) {
					pod.Spec.Tolerations = append(pod.Spec.Tolerations, randomToleration(random, keys))
				}
				pods = append(pods, pod)
				Expect(clientset.Tracker().Add(pod)).To(Succeed())
			}
			theirs := evictedUpstream(ctx, clientset)
			ours := []string{}
			now := time.Now()
			for _, pod := range pods {
				at, leave := evictAt(upstream.FromPod(pod), node.Spec.Taints, func(*corev1.Taint) time.Time { return now })
				if leave && !at.After(now) {
					ours = append(ours, pod.Name)
				}
			}
			slices.Sort(ours)
			Eventually(theirs).Should(Equal(ours), "taints %v", node.Spec.Taints)
			Consistently(theirs, "150ms").Should(Equal(ours))
		}
	})
})

func randomToleration(random *rand.Rand, keys []string) corev1.Toleration {
	toleration := corev1.Toleration{Key: keys[random.Intn(len(keys))], Value: "v"}
	switch random.Intn(5) {
	case 0:
		toleration.Operator, toleration.Value = corev1.TolerationOpExists, ""
	case 1:
		toleration.Value = "other"
	case 2:
		toleration = corev1.Toleration{Operator: corev1.TolerationOpExists}
	}
	if random.Intn(3) == 0 {
		toleration.Effect = []corev1.TaintEffect{corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule}[random.Intn(2)]
	}
	switch random.Intn(4) {
	case 0:
		toleration.TolerationSeconds = ptr.To[int64](0)
	case 1:
		toleration.TolerationSeconds = ptr.To[int64](3600)
	case 2:
		toleration.TolerationSeconds = ptr.To[int64](-5)
	}
	return toleration
}

// evictedUpstream runs upstream's controller over what clientset holds until the spec ends.
func evictedUpstream(ctx context.Context, clientset *fake.Clientset) func() []string {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	DeferCleanup(cancel)
	factory := informers.NewSharedInformerFactory(clientset, 0)
	Expect(upstreamcontroller.AddPodNodeNameIndexer(factory.Core().V1().Pods().Informer())).To(Succeed())
	controller, err := tainteviction.New(ctx, clientset, factory.Core().V1().Pods(), factory.Core().V1().Nodes(), "test")
	Expect(err).NotTo(HaveOccurred())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go controller.Run(ctx)
	return func() []string {
		names := []string{}
		for _, action := range clientset.Actions() {
			if action.Matches("delete", "pods") {
				names = append(names, action.(interface{ GetName() string }).GetName())
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
}
