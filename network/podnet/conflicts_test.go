package podnet_test

import (
	"fmt"
	"net"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"

	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
	"drayage.dev/network/podnet"
)

var _ = Describe("a range that somebody else uses on the node", func() {
	var lab *netlab.Node
	ours := netip.MustParsePrefix("10.218.0.0/16")

	BeforeEach(func() {
		var err error
		lab, err = netlab.NewNode()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(lab.Delete()).To(Succeed()) })
	})

	route := func(to string, protocol netlink.RouteProtocol) {
		GinkgoHelper()
		Expect(lab.Links(func(handle *netlink.Handle) error {
			_, destination, err := net.ParseCIDR(to)
			Expect(err).NotTo(HaveOccurred())
			return handle.RouteAdd(&netlink.Route{Dst: destination, Gw: lab.OutsideAddress.AsSlice(), Protocol: protocol})
		})).To(Succeed())
	}

	It("is refused by the route or the address", func() {
		Expect(podnet.CheckRange(lab.Path, ours)).To(Succeed())
		Expect(podnet.CheckRange(lab.Path, netip.MustParsePrefix("192.0.2.0/25"))).To(MatchError("192.0.2.0/25 overlaps with 192.0.2.1/24, the address of this node's link up0"))
		route("10.218.3.0/24", 0)
		Expect(podnet.CheckRange(lab.Path, ours)).To(MatchError("10.218.0.0/16 overlaps with 10.218.3.0/24, a route of this node over up0"))
	})

	It("is not one with a route to more than that, or with a route of Drayage's", func() {
		route("10.0.0.0/8", 0)
		route("10.218.4.0/24", kernel.RouteProtocol)
		Expect(podnet.CheckRange(lab.Path, ours)).To(Succeed())
	})

	It("is looked for while links come and go", func() {
		add := func(handle *netlink.Handle, name string) netlink.Link {
			GinkgoHelper()
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			link := &netlink.Bridge{LinkAttrs: attrs}
			Expect(handle.LinkAdd(link)).To(Succeed())
			return link
		}
		// As many as the kernel does not tell of in one part.
		Expect(lab.Links(func(handle *netlink.Handle) error {
			for i := range 100 {
				add(handle, fmt.Sprint("bridge", i))
			}
			return nil
		})).To(Succeed())
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer GinkgoRecover()
			defer close(stopped)
			Expect(lab.Links(func(handle *netlink.Handle) error {
				for {
					select {
					case <-stop:
						return nil
					default:
						Expect(handle.LinkDel(add(handle, "restless"))).To(Succeed())
					}
				}
			})).To(Succeed())
		}()
		DeferCleanup(func() {
			close(stop)
			<-stopped
		})
		for range 300 {
			Expect(podnet.CheckRange(lab.Path, ours)).To(Succeed())
		}
	})
})
