package podnet_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/internal/node"
	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
	"drayage.dev/network/podnet"
)

// labNode is one node of several, with its pod network and one pod.
type labNode struct {
	*netlab.Namespace
	podnet.Peer
	cfg     podnet.Config
	manager *podnet.Manager
	pod     *netlab.Namespace
	podIP   string
}

// Two nodes share a link; the third is behind a router, which knows no pod.
var _ = Describe("Several nodes", func() {
	var (
		ctx    context.Context
		fabric *netlab.Fabric
		nodes  []*labNode
	)

	start := func(n *labNode) {
		GinkgoHelper()
		var err error
		n.manager, err = podnet.New(n.cfg)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(n.manager.Close)
	}
	peersOf := func(n *labNode) []podnet.Peer {
		var peers []podnet.Peer
		for _, other := range nodes {
			if other != n {
				peers = append(peers, other.Peer)
			}
		}
		return peers
	}
	serve := func(ns *netlab.Namespace, name string) {
		GinkgoHelper()
		server, err := ns.Serve(":8080", name)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(server.Close)
	}

	BeforeEach(func() {
		ctx = context.Background()
		nodes = nil
		var err error
		fabric, err = netlab.NewFabric(netip.MustParsePrefix("192.0.2.254/24"))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(fabric.Delete()).To(Succeed()) })
		for i, address := range []string{"192.0.2.1", "192.0.2.2", "198.51.100.3"} {
			prefix := netip.PrefixFrom(netip.MustParseAddr(address), 24)
			var ns *netlab.Namespace
			if i < 2 {
				ns, err = fabric.Share(prefix, netip.MustParseAddr("192.0.2.254"))
			} else {
				ns, err = fabric.Route(prefix, netip.MustParsePrefix("198.51.100.254/24"))
			}
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { Expect(ns.Delete()).To(Succeed()) })
			n := &labNode{Namespace: ns, Peer: podnet.Peer{
				Name: fmt.Sprintf("n%d", i+1), Addresses: []netip.Addr{prefix.Addr()},
				PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1))},
			}}
			n.cfg = podnet.Config{
				StateDir: GinkgoT().TempDir(), NodeAddresses: n.Addresses, NetNS: ns.Path,
				PodRanges:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
				ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
			}
			nodes = append(nodes, n)
		}
		for _, n := range nodes {
			start(n)
			Expect(n.manager.Restore(ctx, nil)).To(Succeed())
			Expect(n.manager.Ready()).To(MatchError(podnet.ErrNoPodRange))
			Expect(n.manager.SetPodCIDRs(ctx, n.PodCIDRs)).To(Succeed())
			Expect(n.manager.Ready()).To(MatchError(podnet.ErrPeersUnknown))
			Expect(n.manager.SetPeers(ctx, peersOf(n))).To(Succeed())
			Expect(n.manager.Ready()).To(Succeed())
			n.pod, err = netlab.New()
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { _ = n.pod.Delete() })
			attachment, err := n.manager.Add(ctx, node.PodRef{
				UID: types.UID(n.Name), Namespace: "default", Name: n.Name, SandboxID: n.Name, NetNS: n.pod.Path,
			})
			Expect(err).NotTo(HaveOccurred())
			n.podIP = attachment.Addresses[0].String()
			serve(n.Namespace, n.Name)
			serve(n.pod, n.Name+"-pod")
		}
	})

	// expectMesh asks every pod and node from every pod and node, and who they saw.
	expectMesh := func() {
		GinkgoHelper()
		for _, from := range nodes {
			for _, to := range nodes {
				for _, network := range []string{"tcp", "udp"} {
					about := fmt.Sprintf("%s to %s over %s", from.Name, to.Name, network)
					name, source, err := from.pod.Ask(network, to.podIP+":8080")
					Expect(err).NotTo(HaveOccurred(), "pod of %s", about)
					Expect(name).To(Equal(to.Name + "-pod"))
					Expect(source).To(Equal(from.podIP), "pod of %s", about)

					name, source, err = from.pod.Ask(network, to.Addresses[0].String()+":8080")
					Expect(err).NotTo(HaveOccurred(), "pod of %s itself", about)
					Expect([]string{name, source}).To(Equal([]string{to.Name, from.podIP}), about)

					name, source, err = from.Ask(network, to.podIP+":8080")
					Expect(err).NotTo(HaveOccurred(), about)
					Expect([]string{name, source}).To(Equal([]string{to.Name + "-pod", from.Addresses[0].String()}), about)
				}
			}
		}
	}

	It("join pods and nodes of all pairs, each seen with its own address", func() {
		expectMesh()
		for _, n := range nodes {
			Expect(links(&netlab.Node{Namespace: n.Namespace})).To(ContainElement(kernel.TunnelLink))
			Expect(n.Links(func(handle *netlink.Handle) error {
				link, err := handle.LinkByName(kernel.TunnelLink)
				Expect(err).NotTo(HaveOccurred())
				Expect(link.Attrs().MTU).To(Equal(netlab.FabricMTU - 50))
				return nil
			})).To(Succeed())
		}
		By("large packets find their size")
		server, err := nodes[2].pod.Serve(":8081", "large")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(server.Close)
		conn, err := nodes[0].pod.Dial("tcp", nodes[2].podIP+":8081", patience)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		_, err = conn.Write(append(slices.Repeat([]byte("x"), 20000), '\n'))
		Expect(err).NotTo(HaveOccurred())
		name, _, err := netlab.AskOn(conn)
		Expect(err).NotTo(HaveOccurred())
		Expect(name).To(Equal("large"))

		By("the outside sees the node")
		serve(fabric.Namespace, "outside")
		_, source, err := nodes[0].pod.Ask("tcp", "192.0.2.254:8080")
		Expect(err).NotTo(HaveOccurred())
		Expect(source).To(Equal("192.0.2.1"))
		_, source, err = nodes[2].pod.Ask("tcp", "192.0.2.254:8080")
		Expect(err).NotTo(HaveOccurred())
		Expect(source).To(Equal("198.51.100.3"))
	})

	It("works with strict reverse path filters", func() {
		for _, n := range nodes {
			Expect(n.Do(func() error { return kernel.WriteSysctl("ipv4/conf/all/rp_filter", "1") })).To(Succeed())
		}
		expectMesh()
	})

	It("loses the routes of peers that leave, and answers unreachable for them", func() {
		one := nodes[0]
		foreign := &netlink.Route{Dst: mustIPNet("203.0.113.0/24"), Gw: nodes[1].Addresses[0].AsSlice(), Protocol: unix.RTPROT_STATIC}
		Expect(one.Links(func(handle *netlink.Handle) error { return handle.RouteAdd(foreign) })).To(Succeed())
		Expect(one.manager.SetPeers(ctx, []podnet.Peer{nodes[1].Peer})).To(Succeed())
		_, err := one.pod.Dial("tcp", nodes[2].podIP+":8080", patience)
		Expect(err).To(MatchError(syscall.EHOSTUNREACH))
		Expect(links(&netlab.Node{Namespace: one.Namespace})).NotTo(ContainElement(kernel.TunnelLink), "the last peer behind it has left")
		_, _, err = one.pod.Ask("tcp", nodes[1].podIP+":8080")
		Expect(err).NotTo(HaveOccurred())

		Expect(one.manager.SetPeers(ctx, nil)).To(Succeed())
		_, err = one.Dial("tcp", nodes[1].podIP+":8080", patience)
		Expect(err).To(MatchError(syscall.EHOSTUNREACH))
		Expect(one.Links(func(handle *netlink.Handle) error {
			routes, err := handle.RouteListFiltered(netlink.FAMILY_V4, foreign, netlink.RT_FILTER_DST)
			Expect(routes).To(HaveLen(1), "somebody else's route stays")
			return err
		})).To(Succeed())

		By("ranges that are no peer's to have are ignored")
		Expect(one.manager.SetPeers(ctx, []podnet.Peer{{Name: "liar", Addresses: nodes[1].Addresses, PodCIDRs: []netip.Prefix{
			netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.244.1.128/25")}}})).To(Succeed())
		name, _, err := one.Ask("tcp", one.podIP+":8080")
		Expect(err).NotTo(HaveOccurred())
		Expect(name).To(Equal("n1-pod"))
		Expect(one.manager.SetPeers(ctx, peersOf(one))).To(Succeed())
		expectMesh()
	})

	It("keeps connections through a restart without hearing of peers, and repairs what was taken away", func() {
		one := nodes[0]
		conn, err := one.pod.Dial("tcp", nodes[2].podIP+":8080", patience)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		start(one)
		Expect(one.manager.Restore(ctx, []node.PodRef{{
			UID: "n1", Namespace: "default", Name: "n1", SandboxID: "n1", Addresses: []netip.Addr{netip.MustParseAddr(one.podIP)},
		}})).To(Succeed())
		Expect(one.manager.Ready()).To(Succeed(), "the peers are remembered")
		_, source, err := netlab.AskOn(conn)
		Expect(err).NotTo(HaveOccurred())
		Expect(source).To(Equal(one.podIP))

		Expect(one.Links(func(handle *netlink.Handle) error {
			link, err := handle.LinkByName(kernel.TunnelLink)
			Expect(err).NotTo(HaveOccurred())
			Expect(handle.LinkDel(link)).To(Succeed())
			return handle.RouteDel(&netlink.Route{Dst: mustIPNet("10.244.2.0/24")})
		})).To(Succeed())
		run, cancel := context.WithCancel(ctx)
		done := make(chan error)
		go func() { done <- one.manager.Run(run) }()
		Eventually(func() error {
			_, _, err := one.pod.Ask("tcp", nodes[2].podIP+":8080")
			return err
		}).Should(Succeed())
		cancel()
		Eventually(done).Should(Receive(BeNil()))
		expectMesh()
	})

	It("moves a peer between link and tunnel in one step", func() {
		Expect(nodes[0].Links(func(handle *netlink.Handle) error {
			return handle.RouteAdd(&netlink.Route{Dst: mustIPNet("192.0.2.2/32"), Gw: netip.MustParseAddr("192.0.2.254").AsSlice()})
		})).To(Succeed())
		Expect(nodes[0].manager.Restore(ctx, []node.PodRef{{UID: "n1", Namespace: "default", Name: "n1", SandboxID: "n1",
			Addresses: []netip.Addr{netip.MustParseAddr(nodes[0].podIP)}}})).To(Succeed())
		Expect(nodes[0].Links(func(handle *netlink.Handle) error {
			routes, err := handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: mustIPNet("10.244.2.0/24")}, netlink.RT_FILTER_DST)
			Expect(err).NotTo(HaveOccurred())
			Expect(routes).To(HaveLen(1))
			link, err := handle.LinkByIndex(routes[0].LinkIndex)
			Expect(link.Attrs().Name).To(Equal(kernel.TunnelLink))
			return err
		})).To(Succeed())
	})

	It("leaves nothing behind", func() {
		for _, n := range nodes {
			Expect(podnet.Cleanup(ctx, n.cfg.StateDir, n.Path)).To(Succeed())
			Expect(state(&netlab.Node{Namespace: n.Namespace})).To(BeEmpty())
		}
	})
})
