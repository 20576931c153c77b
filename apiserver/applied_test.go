package apiserver_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/network/withdrawal"
)

// scriptedProxy has withdrawn every pod at its revision.
type scriptedProxy struct {
	revision uint64
	news     chan struct{}
}

func (p *scriptedProxy) Await(context.Context, types.UID) (uint64, error) { return p.revision, nil }
func (p *scriptedProxy) Applied() (revision uint64, news <-chan struct{}) { return p.revision, p.news }

var _ = Describe("The acknowledgement of endpoints", func() {
	readyNode := func(ctx context.Context, name string) {
		GinkgoHelper()
		node := &dcorev1.Node{}
		node.Name = name
		Expect(admin.Create(ctx, node)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, node)).To(Succeed()) })
		before := node.DeepCopy()
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		Expect(admin.Status().Patch(ctx, node, client.MergeFrom(before))).To(Succeed())
	}
	join := func(name string, revision uint64) *withdrawal.Client {
		GinkgoHelper()
		w, err := withdrawal.New(withdrawal.Config{
			Node: name, RESTConfig: as(server, dcorev1.NodeUserPrefix+name, dcorev1.NodesGroup),
			Proxy: &scriptedProxy{revision: revision, news: make(chan struct{})},
		})
		Expect(err).NotTo(HaveOccurred())
		return w
	}
	run := func(w *withdrawal.Client) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		DeferCleanup(func() {
			cancel()
			Eventually(done).Should(Receive(BeNil()))
		})
	}

	It("comes when every Ready node has reported, and is bounded when one has not", func(ctx context.Context) {
		readyNode(ctx, "ack-1")
		readyNode(ctx, "ack-2")
		one, two := join("ack-1", 40), join("ack-2", 41)
		run(one)
		Eventually(func() error {
			bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			return one.Await(bounded, "pod")
		}).Should(MatchError(ContainSubstring("not acknowledged by ack-2")))

		bounded, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		waits := make(chan error, 1)
		go func() { waits <- one.Await(bounded, "pod") }()
		Consistently(waits, 100*time.Millisecond).ShouldNot(Receive())
		run(two)
		Eventually(waits).Should(Receive(BeNil()))
		By("and not when somebody lags behind")
		Eventually(func() error {
			short, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			return two.Await(short, "pod")
		}).Should(MatchError(ContainSubstring("not acknowledged by ack-1")))
	})

	It("asks nobody about a pod that is in no slice", func(ctx context.Context) {
		Expect(join("nobody", 0).Await(ctx, "pod")).To(Succeed())
	})

	It("takes the word of the node itself only", func(ctx context.Context) {
		w, err := withdrawal.New(withdrawal.Config{
			Node: "victim", RESTConfig: as(server, dcorev1.NodeUserPrefix+"other", dcorev1.NodesGroup), Proxy: &scriptedProxy{revision: 7},
		})
		Expect(err).NotTo(HaveOccurred())
		bounded, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err = w.Await(bounded, "pod")
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(`only node "victim" itself may use it`)))
	})
})
