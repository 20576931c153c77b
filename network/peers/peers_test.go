package peers_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/network/peers"
	"drayage.dev/network/podnet"
	"drayage.dev/test/env"
)

// recorder remembers what it was told.
type recorder struct {
	mu   sync.Mutex
	told [][]podnet.Peer
}

func (r *recorder) SetPeers(_ context.Context, peers []podnet.Peer) error {
	slices.SortFunc(peers, func(a, b podnet.Peer) int { return strings.Compare(a.Name, b.Name) })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, peers)
	return nil
}

func (r *recorder) all() [][]podnet.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

var _ = Describe("Follow", func() {
	It("tells of the other nodes that have address and range, and only when that changes", func(ctx SpecContext) {
		api, err := env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(api.Stop)
		write, err := api.Client()
		Expect(err).NotTo(HaveOccurred())
		add := func(name, cidr, address string) *dcorev1.Node {
			GinkgoHelper()
			node := &dcorev1.Node{}
			node.Name, node.Spec.PodCIDR = name, cidr
			if cidr != "" {
				node.Spec.PodCIDRs = []string{cidr}
			}
			Expect(write.Create(ctx, node)).To(Succeed())
			before := node.DeepCopy()
			node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: name}}
			Expect(write.Status().Patch(ctx, node, client.MergeFrom(before))).To(Succeed())
			return node
		}
		add("self", "10.244.0.0/24", "192.0.2.1")
		other := add("other", "10.244.1.0/24", "192.0.2.2")
		late := add("late", "", "192.0.2.3")

		network := &recorder{}
		run, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- peers.Follow(run, peers.Config{Node: "self", RESTConfig: api.Config, Network: network})
		}()
		expected := podnet.Peer{
			Name: "other", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		}
		Eventually(network.all).Should(Equal([][]podnet.Peer{{expected}}))

		By("what does not concern the network is not told")
		before := other.DeepCopy()
		other.Labels = map[string]string{"zone": "a"}
		Expect(write.Patch(ctx, other, client.MergeFrom(before))).To(Succeed())
		before = late.DeepCopy()
		late.Spec.PodCIDR, late.Spec.PodCIDRs = "10.244.2.0/24", []string{"10.244.2.0/24"}
		Expect(write.Patch(ctx, late, client.MergeFrom(before))).To(Succeed())
		Eventually(network.all).Should(HaveLen(2))
		Expect(network.all()[1]).To(HaveExactElements(HaveField("Name", "late"), Equal(expected)))

		By("that the API has not heard of a node for its grace period is")
		heartbeat := func(status corev1.ConditionStatus, reason string) {
			GinkgoHelper()
			before := other.DeepCopy()
			other.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: reason}}
			Expect(write.Status().Patch(ctx, other, client.MergeFrom(before))).To(Succeed())
		}
		heartbeat(corev1.ConditionTrue, "Ready")
		heartbeat(corev1.ConditionFalse, "RuntimeIsDown")
		heartbeat(corev1.ConditionUnknown, "AgentIsSilent")
		lost := expected
		lost.Lost = true
		Eventually(network.all).Should(HaveLen(3))
		Expect(network.all()[2]).To(HaveExactElements(HaveField("Name", "late"), Equal(lost)))
		heartbeat(corev1.ConditionTrue, "Ready")
		Eventually(network.all).Should(HaveLen(4))

		Expect(write.Delete(ctx, late)).To(Succeed())
		Eventually(network.all).Should(HaveLen(5))
		Expect(network.all()[4]).To(Equal([]podnet.Peer{expected}))
		cancel()
		Eventually(done).Should(Receive(BeNil()))
	}, SpecTimeout(2*time.Minute))
})
