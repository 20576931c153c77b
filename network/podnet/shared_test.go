package podnet_test

import (
	"context"
	"fmt"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/internal/node"
	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
	"drayage.dev/network/podnet"
)

// The first two nodes share a link, the third is behind a router. On the first lives a pod of the cluster that the
// nodes belong to, and no other node knows a way to it, nor does the cluster know Drayage's pods.
var _ = Describe("A node that another pod network shares", func() {
	It("joins both kinds of pods, with its own address where nobody could answer", func(ctx context.Context) {
		fabric, err := netlab.NewFabric(netip.MustParsePrefix("192.0.2.254/24"))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(fabric.Delete()).To(Succeed()) })
		var spaces, pods []*netlab.Namespace
		var peers []podnet.Peer
		var managers []*podnet.Manager
		for i, address := range []string{"192.0.2.1/24", "192.0.2.2/24", "198.51.100.3/24"} {
			prefix := netip.MustParsePrefix(address)
			var ns *netlab.Namespace
			if i < 2 {
				ns, err = fabric.Share(prefix, netip.MustParseAddr("192.0.2.254"))
			} else {
				ns, err = fabric.Route(prefix, netip.MustParsePrefix("198.51.100.254/24"))
			}
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { Expect(ns.Delete()).To(Succeed()) })
			peer := podnet.Peer{
				Name: fmt.Sprintf("n%d", i+1), Addresses: []netip.Addr{prefix.Addr()},
				PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.218.%d.0/24", i+1))},
			}
			manager, err := podnet.New(podnet.Config{
				StateDir: GinkgoT().TempDir(), NodeAddresses: peer.Addresses, NetNS: ns.Path, Shared: true,
				PodRanges: []netip.Prefix{netip.MustParsePrefix("10.218.0.0/16")}, ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.219.0.0/16")},
			})
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(manager.Close)
			spaces, peers, managers = append(spaces, ns), append(peers, peer), append(managers, manager)
		}
		var addresses []string
		for i, manager := range managers {
			Expect(manager.SetPodCIDRs(ctx, peers[i].PodCIDRs)).To(Succeed())
			var others []podnet.Peer
			for j, peer := range peers {
				if j != i {
					others = append(others, peer)
				}
			}
			Expect(manager.SetPeers(ctx, others)).To(Succeed())
			pod, err := netlab.New()
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { _ = pod.Delete() })
			attachment, err := manager.Add(ctx, node.PodRef{UID: types.UID(peers[i].Name), Namespace: "default", Name: "p", SandboxID: peers[i].Name, NetNS: pod.Path})
			Expect(err).NotTo(HaveOccurred())
			pods, addresses = append(pods, pod), append(addresses, attachment.Addresses[0].String())
			serve(pod, peers[i].Name)
		}
		host := foreignPod(spaces[0], "10.42.1.5/24", "10.42.1.1/24")
		serve(host, "host")

		for i, peer := range peers {
			name, source, err := host.Ask("tcp", addresses[i]+":8080")
			Expect(err).NotTo(HaveOccurred(), peer.Name)
			Expect(name).To(Equal(peer.Name))
			switch i {
			case 0:
				Expect(source).To(Equal("10.42.1.5"), "the node itself knows the way back")
			case 1:
				Expect(source).To(Equal("192.0.2.1"))
			case 2:
				Expect(source).To(Equal("10.218.1.0"), "the node's address in the tunnel")
			}
		}
		name, source, err := pods[0].Ask("tcp", "10.42.1.5:8080")
		Expect(err).NotTo(HaveOccurred())
		Expect([]string{name, source}).To(Equal([]string{"host", "10.42.1.1"}), "the cluster's pods answer a node, not an address that their network does not know")
	})
})

func serve(ns *netlab.Namespace, name string) {
	GinkgoHelper()
	server, err := ns.Serve(":8080", name)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(server.Close)
}

// foreignPod is a pod of another network on the node, which forwards for it.
func foreignPod(on *netlab.Namespace, address, gateway string) *netlab.Namespace {
	GinkgoHelper()
	pod, err := netlab.New()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = pod.Delete() })
	up := func(handle *netlink.Handle, name, address string) error {
		link, err := handle.LinkByName(name)
		if err != nil {
			return err
		}
		parsed, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if err := handle.AddrAdd(link, parsed); err != nil {
			return err
		}
		return handle.LinkSetUp(link)
	}
	Expect(on.Links(func(handle *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "cni0"
		if err := handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.FD())}); err != nil {
			return err
		}
		return up(handle, "cni0", gateway)
	})).To(Succeed())
	Expect(pod.Links(func(handle *netlink.Handle) error {
		if err := up(handle, "eth0", address); err != nil {
			return err
		}
		via := netip.MustParsePrefix(gateway).Addr()
		return handle.RouteAdd(&netlink.Route{Gw: via.AsSlice()})
	})).To(Succeed())
	Expect(on.Do(func() error { return kernel.WriteSysctl("ipv4/ip_forward", "1") })).To(Succeed())
	return pod
}
