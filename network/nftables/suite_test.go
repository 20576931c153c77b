package nftables_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/internal/node"
	"drayage.dev/network/netlab"
	"drayage.dev/network/nftables"
	"drayage.dev/network/podnet"
	"drayage.dev/network/spec"
)

func TestNFTables(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(30 * time.Second)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "Service rules")
}

const (
	tcp = 6
	udp = 17
)

// world is a node with its pod network and an empty service table.
type world struct {
	*netlab.Node
	pods  *podnet.Manager
	table *nftables.Table
}

func newWorld() *world {
	GinkgoHelper()
	lab, err := netlab.NewNode()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(lab.Delete()).To(Succeed()) })
	pods, err := podnet.New(podnet.Config{
		StateDir: GinkgoT().TempDir(), NetNS: lab.Path, NodeAddresses: []netip.Addr{lab.Address},
		PodRanges:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(pods.Close)
	Expect(pods.SetPodCIDRs(context.Background(), []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")})).To(Succeed())
	w := &world{Node: lab, pods: pods}
	w.table = w.open()
	_, err = w.table.Sync(nil)
	Expect(err).NotTo(HaveOccurred())
	return w
}

func (w *world) open() *nftables.Table {
	GinkgoHelper()
	table, err := nftables.New(w.Path)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(table.Close)
	return table
}

// pod makes a pod that serves under its name on port 8080.
func (w *world) pod(name string) (*netlab.Namespace, netip.AddrPort) {
	GinkgoHelper()
	ns, err := netlab.New()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = ns.Delete() })
	attachment, err := w.pods.Add(context.Background(), node.PodRef{SandboxID: name, NetNS: ns.Path})
	Expect(err).NotTo(HaveOccurred())
	server, err := ns.Serve(":8080", name)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(server.Close)
	return ns, netip.AddrPortFrom(attachment.Addresses[0], 8080)
}

// listen opens port 9090 in a pod.
func listen(ns *netlab.Namespace) (listener net.Listener) {
	GinkgoHelper()
	Expect(ns.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":9090")
		return err
	})).To(Succeed())
	DeferCleanup(listener.Close)
	return listener
}

func (w *world) apply(changes spec.Changes) {
	GinkgoHelper()
	Expect(w.table.Apply(changes)).To(Succeed())
}

func key(address string, proto uint8) spec.Key {
	parsed := netip.MustParseAddrPort(address)
	return spec.Key{Addr: parsed.Addr(), Proto: proto, Port: parsed.Port()}
}

// within is the key of the frontend that only clients on the node use.
func within(key spec.Key) spec.Key {
	key.Inside = true
	return key
}

func frontend(slots ...netip.AddrPort) *spec.Frontend {
	f := &spec.Frontend{Slots: slots}
	for _, slot := range slots {
		f.Local = append(f.Local, slot.Addr())
	}
	return f
}

// answers counts who answers n connections.
func answers(from *netlab.Namespace, network, address string, n int) map[string]int {
	GinkgoHelper()
	count := map[string]int{}
	for range n {
		name, _, err := from.Ask(network, address)
		Expect(err).NotTo(HaveOccurred())
		count[name]++
	}
	return count
}

// patience bounds what is answered at once, unless a packet gets lost or the machine is busy.
const patience = 30 * time.Second
