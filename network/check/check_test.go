package check_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/internal/node"
	"drayage.dev/network/check"
	"drayage.dev/network/netlab"
	"drayage.dev/network/nftables"
	"drayage.dev/network/podnet"
	"drayage.dev/network/spec"
)

// labNode is one node with its pod network and one pod that serves on port 8080.
type labNode struct {
	*netlab.Namespace
	podnet.Peer
	manager *podnet.Manager
	pod     *netlab.Namespace
	podIP   netip.Addr
}

func (n *labNode) asked() subresourcesv1alpha1.CheckedNode {
	return subresourcesv1alpha1.CheckedNode{Name: n.Name, Address: n.Addresses[0].String(), PodCIDR: n.PodCIDRs[0].String()}
}

func (n *labNode) askedPod() subresourcesv1alpha1.CheckedPod {
	return subresourcesv1alpha1.CheckedPod{Namespace: "shop", Name: "on-" + n.Name, UID: n.Name, Address: n.podIP.String(), Node: n.Name}
}

// scripted says what the node should do for services.
type scripted struct {
	frontends map[types.NamespacedName]map[spec.Key]*spec.Frontend
	deaf      bool
}

func (s *scripted) Frontends(service types.NamespacedName) (map[spec.Key]*spec.Frontend, bool) {
	return s.frontends[service], !s.deaf
}

// nameServer answers one name with an address.
type nameServer struct{ record atomic.Pointer[record] }

type record struct{ name, address string }

func (s *nameServer) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(request)
	if known := s.record.Load(); request.Question[0].Name == known.name {
		record, err := dns.NewRR(known.name + " 5 IN A " + known.address)
		if err == nil {
			reply.Answer = append(reply.Answer, record)
		}
	} else {
		reply.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(reply)
}

// Two nodes share a link; the third is behind a router.
var _ = Describe("A check", func() {
	var (
		ctx      context.Context
		fabric   *netlab.Fabric
		nodes    []*labNode
		checker  *check.Checker
		services *scripted
		table    *nftables.Table
		names    *nameServer
		web      subresourcesv1alpha1.CheckedService
	)

	BeforeEach(func() {
		ctx = context.Background()
		nodes = nil
		var err error
		fabric, err = netlab.NewFabric(netip.MustParsePrefix("192.0.2.254/24"))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(fabric.Delete()).To(Succeed()) })
		for i, address := range []string{"192.0.2.1", "192.0.2.2", "198.51.100.3"} {
			prefix := netip.PrefixFrom(netip.MustParseAddr(address), 24)
			join := func() (*netlab.Namespace, error) { return fabric.Share(prefix, netip.MustParseAddr("192.0.2.254")) }
			if i == 2 {
				join = func() (*netlab.Namespace, error) {
					return fabric.Route(prefix, netip.MustParsePrefix("198.51.100.254/24"))
				}
			}
			ns, err := join()
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { Expect(ns.Delete()).To(Succeed()) })
			n := &labNode{Namespace: ns, Peer: podnet.Peer{
				Name: fmt.Sprintf("n%d", i+1), Addresses: []netip.Addr{prefix.Addr()},
				PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1))},
			}}
			n.manager, err = podnet.New(podnet.Config{
				StateDir: GinkgoT().TempDir(), NodeAddresses: n.Addresses, NetNS: ns.Path,
				PodRanges:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
				ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
			})
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(n.manager.Close)
			nodes = append(nodes, n)
		}
		for _, n := range nodes {
			Expect(n.manager.Restore(ctx, nil)).To(Succeed())
			Expect(n.manager.SetPodCIDRs(ctx, n.PodCIDRs)).To(Succeed())
			var peers []podnet.Peer
			for _, other := range nodes {
				if other != n {
					peers = append(peers, other.Peer)
				}
			}
			Expect(n.manager.SetPeers(ctx, peers)).To(Succeed())
			n.pod, err = netlab.New()
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { _ = n.pod.Delete() })
			attachment, err := n.manager.Add(ctx, node.PodRef{
				UID: types.UID(n.Name), Namespace: "shop", Name: "on-" + n.Name, SandboxID: n.Name, NetNS: n.pod.Path,
			})
			Expect(err).NotTo(HaveOccurred())
			n.podIP = attachment.Addresses[0]
			server, err := n.pod.Serve(":8080", n.Name)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(server.Close)
		}

		// The first node's services: web has the pods of the others behind it.
		one := nodes[0]
		table, err = nftables.New(one.Path)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(table.Close)
		backends := []netip.AddrPort{netip.AddrPortFrom(nodes[1].podIP, 8080), netip.AddrPortFrom(nodes[2].podIP, 8080)}
		desired := map[spec.Key]*spec.Frontend{
			{Addr: netip.MustParseAddr("10.96.0.20"), Proto: 6, Port: 80}: {Slots: backends},
		}
		_, err = table.Sync(desired)
		Expect(err).NotTo(HaveOccurred())
		services = &scripted{frontends: map[types.NamespacedName]map[spec.Key]*spec.Frontend{{Namespace: "shop", Name: "web"}: desired}}
		web = subresourcesv1alpha1.CheckedService{Namespace: "shop", Name: "web", Address: "10.96.0.20", Ports: []subresourcesv1alpha1.CheckedPort{
			{Protocol: "TCP", Port: 80, Endpoints: []string{backends[0].String(), backends[1].String()}},
		}}
		names = &nameServer{}
		names.record.Store(&record{"web.shop.svc.cluster.local.", "10.96.0.20"})
		var packets net.PacketConn
		Expect(one.Do(func() (err error) {
			packets, err = net.ListenPacket("udp", "192.0.2.1:53")
			return err
		})).To(Succeed())
		server := &dns.Server{PacketConn: packets, Handler: names}
		go func() { _ = server.ActivateAndServe() }()
		DeferCleanup(packets.Close)
		checker = check.New(check.Config{
			Node: "n1", Network: one.manager, Services: services, Compare: table.Compare, NetNS: one.Path,
			Namespace: func(_ context.Context, pod types.UID) (string, error) { return one.pod.Path, nil },
			DNS:       one.Addresses, Domain: "cluster.local",
		})
	})

	// in runs a command in a namespace.
	in := func(ns *netlab.Namespace, command string) {
		GinkgoHelper()
		out, err := exec.Command("nsenter", append([]string{"--net=" + ns.Path}, strings.Fields(command)...)...).CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), "%s: %s", command, out)
	}
	found := func(from bool) (broken []string, fine int) {
		GinkgoHelper()
		asked := subresourcesv1alpha1.NetworkCheck{
			Nodes:    []subresourcesv1alpha1.CheckedNode{nodes[0].asked(), nodes[1].asked(), nodes[2].asked()},
			Pods:     []subresourcesv1alpha1.CheckedPod{nodes[1].askedPod(), nodes[2].askedPod()},
			Services: []subresourcesv1alpha1.CheckedService{web},
		}
		if from {
			pod := nodes[0].askedPod()
			asked.From = &pod
		}
		report, err := checker.Check(ctx, asked)
		Expect(err).NotTo(HaveOccurred())
		for _, finding := range report.Findings {
			if finding.Broken {
				broken = append(broken, finding.Message)
			} else {
				fine++
			}
		}
		return broken, fine
	}

	It("finds nothing where nothing is broken", func() {
		for _, from := range []bool{true, false} {
			broken, fine := found(from)
			Expect(broken).To(BeEmpty())
			Expect(fine).To(Equal(14))
		}
	})

	DescribeTable("says in words that", func(change func(), sentences ...string) {
		change()
		broken, _ := found(true)
		for _, sentence := range sentences {
			Expect(broken).To(ContainElement(ContainSubstring(sentence)))
		}
	},
		Entry("a route to a node's pods is missing", func() { in(nodes[0].Namespace, "ip route del 10.244.2.0/24") },
			"On node n1 the route to the pods of node n2 is missing: 10.244.2.0/24 by way of 192.0.2.2 over up0.",
			"Pod shop/on-n2 (10.244.2.1, on node n2) does not answer pod shop/on-n1: ",
			"Pod shop/on-n1 cannot connect to 10.244.2.1:8080, an endpoint of service shop/web: "),
		Entry("a route goes elsewhere", func() {
			in(nodes[0].Namespace, "ip route replace 10.244.2.0/24 via 192.0.2.254 dev up0 proto 142 src 192.0.2.1")
		},
			"On node n1 the route to the pods of node n2 is wrong: 10.244.2.0/24 goes by way of 192.0.2.254, it should by way of 192.0.2.2 over up0."),
		Entry("the range of services has no unreachable route", func() { in(nodes[0].Namespace, "ip route del unreachable 10.96.0.0/16 metric 1073741824") },
			"On node n1 the unreachable route for the range of services 10.96.0.0/16 is missing"),
		Entry("the route to an own pod is missing", func() { in(nodes[0].Namespace, "ip route del "+nodes[0].podIP.String()) },
			"On node n1 the route to the node's own pod 10.244.1.1 (shop/on-n1 n1, over link dray"),
		Entry("a firewall stops the tunnel", func() {
			in(fabric.Namespace, "nft add table ip wall")
			in(fabric.Namespace, "nft add chain ip wall forward { type filter hook forward priority 0 ; }")
			in(fabric.Namespace, "nft add rule ip wall forward udp dport 14789 drop")
		}, "The tunnel from node n1 to node n3 carries nothing, although n3 answers at 198.51.100.3: open UDP port 14789 in both directions between the nodes."),
		Entry("the tunnel is down", func() { in(nodes[0].Namespace, "ip link set drayage-vxlan down") },
			"On node n1 the tunnel drayage-vxlan to node n3 is down."),
		Entry("large packets get lost", func() {
			in(fabric.Namespace, "nft add table ip wall")
			in(fabric.Namespace, "nft add chain ip wall forward { type filter hook forward priority 0 ; }")
			in(fabric.Namespace, "nft add rule ip wall forward meta length gt 1300 drop")
		}, "Packets of 1350 bytes from node n1 to node n3 get lost, small ones arrive"),
		Entry("a node is cut off", func() { in(fabric.Namespace, "ip link set port2 down") },
			"Node n2 does not answer at 192.0.2.2 from node n1 ("),
		Entry("an entry of the service maps is missing", func() {
			in(nodes[0].Namespace, "nft delete element ip drayage-services ep { 10.96.0.20 . tcp . 80 . 0:1 }")
		}, "The kernel of node n1 does not do for service shop/web what it should: of the entries for 10.96.0.20:80/6 1 are missing or wrong in the nftables table drayage-services."),
		Entry("the service table is missing", func() { in(nodes[0].Namespace, "nft delete table ip drayage-services") },
			"The kernel of node n1 does not do for service shop/web what it should: the nftables table drayage-services is missing",
			"Pod shop/on-n1 cannot connect to service shop/web at 10.96.0.20:80: the address is unreachable, nobody has it."),
		Entry("the agent hears nothing", func() { services.deaf = true },
			"The agent of node n1 has not heard the services from the API server yet"),
		Entry("the agent does not know the service", func() { services.frontends = nil },
			"The agent of node n1 does not know service shop/web"),
		Entry("the agent does not know an endpoint", func() { web.Ports[0].Endpoints = append(web.Ports[0].Endpoints, "10.244.2.99:8080") },
			"Node n1 sends nothing to 10.244.2.99:8080 of service shop/web, though the API has them as ready"),
		Entry("nothing listens behind a service", func() {
			in(nodes[1].Namespace, "ip route del 10.244.2.1")
			in(nodes[2].Namespace, "ip route del 10.244.3.1")
		}, "Pod shop/on-n1 cannot connect to service shop/web at 10.96.0.20:80:"),
		Entry("a name is not known", func() { names.record.Store(&record{"other.", "10.96.0.20"}) },
			"The name server of node n1 answers NXDOMAIN for web.shop.svc.cluster.local.: it has not heard of the service."),
		Entry("a name leads elsewhere", func() { names.record.Store(&record{"web.shop.svc.cluster.local.", "10.96.0.99"}) },
			"The name server of node n1 answers 10.96.0.99 for web.shop.svc.cluster.local., it should be 10.96.0.20."),
	)

	It("leaves a service without endpoints to who knows why", func() {
		services.frontends[types.NamespacedName{Namespace: "shop", Name: "web"}] = map[spec.Key]*spec.Frontend{
			{Addr: netip.MustParseAddr("10.96.0.20"), Proto: 6, Port: 80}: {},
		}
		_, err := table.Sync(services.frontends[types.NamespacedName{Namespace: "shop", Name: "web"}])
		Expect(err).NotTo(HaveOccurred())
		web.Ports[0].Endpoints = nil
		broken, _ := found(false)
		Expect(broken).To(BeEmpty())
	})
})
