package podnet_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/internal/node"
	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
	"drayage.dev/network/podnet"
)

// Two nodes without a common link, between them a router.
var _ = Describe("A node behind the tunnel that the API has lost", func() {
	var (
		fabric *netlab.Fabric
		nodes  []*labNode
	)

	BeforeEach(func(ctx context.Context) {
		nodes = nil
		var err error
		fabric, err = netlab.NewFabric(netip.MustParsePrefix("192.0.2.254/24"))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(fabric.Delete()).To(Succeed()) })
		for i, address := range []string{"198.51.100.1", "203.0.113.2"} {
			prefix := netip.PrefixFrom(netip.MustParseAddr(address), 24)
			router := prefix.Masked().Addr().As4()
			router[3] = 254
			ns, err := fabric.Route(prefix, netip.PrefixFrom(netip.AddrFrom4(router), 24))
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { Expect(ns.Delete()).To(Succeed()) })
			// The worst case for who has no route back.
			Expect(ns.Do(func() error { return kernel.WriteSysctl("ipv4/conf/all/rp_filter", "1") })).To(Succeed())
			n := &labNode{Namespace: ns, Peer: podnet.Peer{
				Name: fmt.Sprintf("n%d", i+1), Addresses: []netip.Addr{prefix.Addr()},
				PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1))},
			}}
			n.manager, err = podnet.New(podnet.Config{
				StateDir: GinkgoT().TempDir(), NodeAddresses: n.Addresses, NetNS: ns.Path,
				PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
			})
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(n.manager.Close)
			nodes = append(nodes, n)
		}
		for i, n := range nodes {
			Expect(n.manager.SetPodCIDRs(ctx, n.PodCIDRs)).To(Succeed())
			Expect(n.manager.SetPeers(ctx, []podnet.Peer{nodes[1-i].Peer})).To(Succeed())
			n.pod, err = netlab.New()
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { _ = n.pod.Delete() })
			attachment, err := n.manager.Add(ctx, node.PodRef{UID: types.UID(n.Name), Namespace: "default", Name: n.Name, SandboxID: n.Name, NetNS: n.pod.Path})
			Expect(err).NotTo(HaveOccurred())
			n.podIP = attachment.Addresses[0].String()
			serve(n.Namespace, n.Name)
			serve(n.pod, n.Name+"-pod")
		}
	})

	// losing tells a node that the API has lost the other one, or has heard of it again.
	losing := func(ctx context.Context, of int, lost bool) {
		GinkgoHelper()
		peer := nodes[1-of].Peer
		peer.Lost = lost
		Expect(nodes[of].manager.SetPeers(ctx, []podnet.Peer{peer})).To(Succeed())
	}
	// repairing does what Run does every ten seconds, and more often.
	repairing := func(ctx context.Context, of int) error {
		n := nodes[of]
		return n.manager.Restore(ctx, []node.PodRef{{UID: types.UID(n.Name), Namespace: "default", Name: n.Name, SandboxID: n.Name,
			Addresses: []netip.Addr{netip.MustParseAddr(n.podIP)}}})
	}
	cut := func(is bool) {
		GinkgoHelper()
		Expect(fabric.Links(func(handle *netlink.Handle) error {
			link, err := handle.LinkByName("port2")
			Expect(err).NotTo(HaveOccurred())
			if is {
				return handle.LinkSetDown(link)
			}
			return handle.LinkSetUp(link)
		})).To(Succeed())
	}
	// reaches asks the other node's pod, from a pod and from the node.
	reaches := func(g Gomega, ctx context.Context, from int) {
		g.Expect(repairing(ctx, from)).To(Succeed())
		for _, ns := range []*netlab.Namespace{nodes[from].Namespace, nodes[from].pod} {
			name, _, err := ns.Ask("tcp", nodes[1-from].podIP+":8080")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(name).To(Equal(nodes[1-from].Name + "-pod"))
		}
	}
	// givesUp expects answers at once. The kernel limits how often it tells a pod: a packet each.
	givesUp := func(g Gomega, ctx context.Context, from int) {
		g.Expect(repairing(ctx, from)).To(Succeed())
		_, err := nodes[from].Dial("tcp", nodes[1-from].podIP+":8080", 500*time.Millisecond)
		g.Expect(err).To(MatchError(syscall.EHOSTUNREACH))
		for _, address := range []string{nodes[1-from].podIP, nodes[1-from].Addresses[0].String()} {
			_, err := nodes[from].pod.Dial("tcp", address+":8080", 4*time.Second)
			g.Expect(err).To(MatchError(syscall.EHOSTUNREACH), address)
		}
	}
	stateOf := func(from int) string {
		GinkgoHelper()
		state := ""
		Expect(nodes[from].Links(func(handle *netlink.Handle) error {
			link, err := handle.LinkByName(kernel.TunnelLink)
			Expect(err).NotTo(HaveOccurred())
			entries, err := handle.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
			for _, entry := range entries {
				if entry.IP.Equal(net.IP(nodes[1-from].PodCIDRs[0].Addr().AsSlice())) {
					// One that has answered is REACHABLE for half a minute or so.
					state = map[int]string{netlink.NUD_PERMANENT: "permanent", netlink.NUD_REACHABLE: "answered", netlink.NUD_STALE: "answered"}[entry.State]
				}
			}
			return err
		})).To(Succeed())
		return state
	}

	It("is answered unreachable for when it is silent, and comes back by itself", func(ctx context.Context) {
		kept, err := nodes[0].pod.Dial("tcp", nodes[1].podIP+":8080", 2*time.Second)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(kept.Close)

		By("an agent that is down takes nothing from its pods")
		losing(ctx, 0, true)
		for range 3 {
			Eventually(stateOf).WithArguments(0).WithTimeout(time.Minute).Should(Equal("answered"))
			Expect(repairing(ctx, 0)).To(Succeed())
			reaches(NewWithT(GinkgoT()), ctx, 0)
			_, _, err = netlab.AskOn(kept)
			Expect(err).NotTo(HaveOccurred())
		}

		By("a machine that is down is found out")
		cut(true)
		Eventually(givesUp).WithArguments(ctx, 0).WithTimeout(time.Minute).Should(Succeed())
		defects, _, err := nodes[0].manager.Inspect()
		Expect(err).NotTo(HaveOccurred())
		Expect(defects).To(ConsistOf(ContainSubstring("node n2 is silent")))

		By("it answers before the API hears of it")
		cut(false)
		Eventually(reaches).WithArguments(ctx, 0).WithTimeout(time.Minute).Should(Succeed())
		_, _, err = netlab.AskOn(kept)
		Expect(err).NotTo(HaveOccurred(), "a connection outlives it all")
		losing(ctx, 0, false)
		Expect(stateOf(0)).To(Equal("permanent"))
		defects, _, err = nodes[0].manager.Inspect()
		Expect(err).NotTo(HaveOccurred())
		Expect(defects).To(BeEmpty())
	})

	It("is reached at once when the API has heard of it", func(ctx context.Context) {
		losing(ctx, 0, true)
		cut(true)
		Eventually(givesUp).WithArguments(ctx, 0).WithTimeout(time.Minute).Should(Succeed())
		cut(false)
		losing(ctx, 0, false)
		name, _, err := nodes[0].Ask("tcp", nodes[1].podIP+":8080")
		Expect(err).NotTo(HaveOccurred())
		Expect(name).To(Equal("n2-pod"))
	})

	It("finds a node again that has given it up, too", func(ctx context.Context) {
		cut(true)
		for i := range nodes {
			losing(ctx, i, true)
		}
		for i := range nodes {
			Eventually(givesUp).WithArguments(ctx, i).WithTimeout(time.Minute).Should(Succeed())
		}
		cut(false)
		Eventually(func(g Gomega) {
			g.Expect(repairing(ctx, 1)).To(Succeed())
			reaches(g, ctx, 0)
		}).WithTimeout(time.Minute).Should(Succeed())
		Eventually(reaches).WithArguments(ctx, 1).WithTimeout(time.Minute).Should(Succeed())
	})
})
