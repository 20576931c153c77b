package podnet_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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

var _ = Describe("Manager", func() {
	var (
		ctx     context.Context
		lab     *netlab.Node
		cfg     podnet.Config
		manager *podnet.Manager
	)

	BeforeEach(func() {
		ctx = context.Background()
		var err error
		lab, err = netlab.NewNode()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(lab.Delete()).To(Succeed()) })
		cfg = podnet.Config{
			StateDir:      GinkgoT().TempDir(),
			NodeAddresses: []netip.Addr{lab.Address},
			PodRanges:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
			NetNS:         lab.Path,
		}
		manager, err = podnet.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(manager.Close()).To(Succeed()) })
		Expect(manager.Restore(ctx, nil)).To(Succeed())
	})

	setCIDR := func() {
		GinkgoHelper()
		Expect(manager.SetPodCIDRs(ctx, []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")})).To(Succeed())
	}
	newPod := func(name string) (*netlab.Namespace, node.PodRef) {
		GinkgoHelper()
		ns, err := netlab.New()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _ = ns.Delete() })
		return ns, node.PodRef{
			UID: types.UID(name + "-uid"), Namespace: "default", Name: name, SandboxID: name + "-sandbox", NetNS: ns.Path,
		}
	}
	add := func(name string) (*netlab.Namespace, node.PodRef, string) {
		GinkgoHelper()
		ns, ref := newPod(name)
		attachment, err := manager.Add(ctx, ref)
		Expect(err).NotTo(HaveOccurred())
		return ns, ref, attachment.Addresses[0].String()
	}
	serve := func(ns *netlab.Namespace, name string) {
		GinkgoHelper()
		server, err := ns.Serve(":8080", name)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(server.Close)
	}

	It("gives a pod a link that loses nothing from the start", func() {
		setCIDR()
		for i := range 30 {
			ns, ref := newPod(fmt.Sprint("pod-", i))
			attachment, err := manager.Add(ctx, ref)
			Expect(err).NotTo(HaveOccurred())
			for end, name := range map[*netlab.Namespace]string{lab.Namespace: attachment.HostInterface, ns: "eth0"} {
				Expect(end.Links(func(handle *netlink.Handle) error {
					// Asking for the one link would open it.
					links, err := handle.LinkList()
					Expect(links).To(ContainElement(HaveField("Attrs()", And(HaveField("Name", name), HaveField("OperState", netlink.LinkOperState(netlink.OperUp))))))
					return err
				})).To(Succeed())
			}
		}
	})

	It("waits for the node's range", func() {
		_, ref := newPod("early")
		_, err := manager.Add(ctx, ref)
		Expect(err).To(MatchError(podnet.ErrNoPodRange))
	})

	It("joins pods, the node and the outside", func() {
		setCIDR()
		one, _, oneIP := add("one")
		two, _, twoIP := add("two")
		serve(one, "one")
		serve(two, "two")
		serve(lab.Namespace, "node")
		serve(lab.Outside, "outside")

		for _, network := range []string{"tcp", "udp"} {
			By("pod to pod over " + network)
			name, source, err := one.Ask(network, twoIP+":8080")
			Expect(err).NotTo(HaveOccurred())
			Expect([]string{name, source}).To(Equal([]string{"two", oneIP}))

			By("node to pod")
			name, source, err = lab.Ask(network, oneIP+":8080")
			Expect(err).NotTo(HaveOccurred())
			Expect([]string{name, source}).To(Equal([]string{"one", lab.Address.String()}))

			By("pod to node")
			name, source, err = one.Ask(network, lab.Address.String()+":8080")
			Expect(err).NotTo(HaveOccurred())
			Expect([]string{name, source}).To(Equal([]string{"node", oneIP}))

			By("pod to the outside, with the node's address")
			name, source, err = one.Ask(network, lab.OutsideAddress.String()+":8080")
			Expect(err).NotTo(HaveOccurred())
			Expect([]string{name, source}).To(Equal([]string{"outside", lab.Address.String()}))

			By("pod to itself")
			name, _, err = one.Ask(network, oneIP+":8080")
			Expect(err).NotTo(HaveOccurred())
			Expect(name).To(Equal("one"))
		}
		Expect(one.Links(func(handle *netlink.Handle) error {
			link, err := handle.LinkByName("eth0")
			Expect(err).NotTo(HaveOccurred())
			Expect(link.Attrs().MTU).To(Equal(1400), "the uplink's MTU")
			return nil
		})).To(Succeed())
	})

	It("answers unreachable for addresses that nothing serves, to pods and to the node", func() {
		setCIDR()
		for i, address := range []string{"10.96.7.7:80", "10.244.9.9:80", "10.244.3.77:80"} {
			// A pod each: the kernel limits how often it tells one host.
			pod, _, _ := add(fmt.Sprintf("pod-%d", i))
			for _, from := range []*netlab.Namespace{pod, lab.Namespace} {
				_, err := from.Dial("tcp", address, patience)
				if from == lab.Namespace && i == 0 {
					Expect(err).To(MatchError(syscall.ECONNREFUSED), "the node's own packet to a service")
				} else {
					Expect(err).To(MatchError(syscall.EHOSTUNREACH), address)
				}
				if from == lab.Namespace {
					_, _, err = from.Ask("udp", address)
					Expect(err).To(HaveOccurred(), address)
				}
			}
		}
	})

	It("is idempotent, and removal frees the address but lets it rest", func() {
		setCIDR()
		_, ref, address := add("one")
		again, err := manager.Add(ctx, ref)
		Expect(err).NotTo(HaveOccurred())
		Expect(again.Addresses[0].String()).To(Equal(address))
		Expect(manager.Check(ctx, ref)).To(Succeed())

		Expect(manager.Remove(ctx, ref)).To(Succeed())
		Expect(manager.Remove(ctx, ref)).To(Succeed())
		Expect(manager.Check(ctx, ref)).NotTo(Succeed())
		_, err = lab.Dial("tcp", address+":8080", patience)
		Expect(err).To(MatchError(syscall.EHOSTUNREACH))

		_, _, next := add("two")
		Expect(next).NotTo(Equal(address))
	})

	It("restores what lives after a crash and gives back the rest", func() {
		setCIDR()
		one, ref, address := add("one")
		_, dead, _ := add("dead")
		serve(one, "one")
		By("losing the route and the lease of a pod that lives")
		Expect(lab.Links(func(handle *netlink.Handle) error {
			dst, err := netlink.ParseIPNet(address + "/32")
			Expect(err).NotTo(HaveOccurred())
			return handle.RouteDel(&netlink.Route{Dst: dst, Scope: netlink.SCOPE_LINK})
		})).To(Succeed())
		Expect(os.Remove(filepath.Join(cfg.StateDir, "addresses", address))).To(Succeed())

		second, err := podnet.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(second.Close)
		ref.Addresses = []netip.Addr{netip.MustParseAddr(address)}
		Expect(second.Restore(ctx, []node.PodRef{ref})).To(Succeed())

		name, _, err := lab.Ask("tcp", address+":8080")
		Expect(err).NotTo(HaveOccurred())
		Expect(name).To(Equal("one"))
		Expect(second.Check(ctx, ref)).To(Succeed())
		Expect(second.Check(ctx, dead)).NotTo(Succeed())

		By("knowing a pod by its address where the runtime tells no more")
		Expect(second.Restore(ctx, []node.PodRef{{UID: "one-uid", Addresses: ref.Addresses}})).To(Succeed())
		Expect(second.Check(ctx, ref)).To(Succeed())
		Expect(links(lab)).To(ConsistOf(kernel.ServiceLink, kernel.LinkName("one-sandbox")))
		Expect(os.ReadDir(filepath.Join(cfg.StateDir, "addresses"))).To(HaveLen(2), "one lease and the cursor")
	})

	It("leaves nothing behind a failed Add", func() {
		setCIDR()
		_, ref := newPod("ghost")
		ref.NetNS = "/run/netns/network-there-is-none"
		_, err := manager.Add(ctx, ref)
		Expect(err).To(HaveOccurred())
		Expect(links(lab)).To(ConsistOf(kernel.ServiceLink))
		Expect(manager.Check(ctx, ref)).To(MatchError(ContainSubstring("no address")))
	})

	It("repairs its table and cleans everything up", func() {
		setCIDR()
		add("one")
		run, cancel := context.WithCancel(ctx)
		done := make(chan error)
		Expect(kernel.Cleanup(lab.Path)).To(Succeed())
		go func() { done <- manager.Run(run) }()
		Eventually(func() (string, error) { return state(lab) }).Should(ContainSubstring(kernel.PodNetTable))
		cancel()
		Eventually(done).Should(Receive(BeNil()))

		Expect(podnet.Cleanup(ctx, cfg.StateDir, lab.Path)).To(Succeed())
		Expect(podnet.Cleanup(ctx, cfg.StateDir, lab.Path)).To(Succeed())
		Expect(state(lab)).To(BeEmpty())
		Expect(lab.Do(func() error {
			value, err := kernel.ReadSysctl("ipv4/conf/up0/forwarding")
			Expect(value).To(Equal("0"))
			return err
		})).To(Succeed())
	})

	It("wires fast", func() {
		setCIDR()
		const pods = 20
		refs := make([]node.PodRef, pods)
		for i := range refs {
			_, refs[i] = newPod(fmt.Sprintf("pod-%d", i))
		}
		start := time.Now()
		for _, ref := range refs {
			_, err := manager.Add(ctx, ref)
			Expect(err).NotTo(HaveOccurred())
		}
		AddReportEntry("per Add", time.Since(start)/pods)
		start = time.Now()
		for _, ref := range refs {
			Expect(manager.Remove(ctx, ref)).To(Succeed())
		}
		AddReportEntry("per Remove", time.Since(start)/pods)
	})
})
