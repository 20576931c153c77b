package service

import (
	"net/netip"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	netutils "k8s.io/utils/net"
)

func TestService(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controllers/core/service")
}

// distinct returns what a draw yields first, without repetitions, up to a number of them.
func distinct[T comparable](draw func(func(T) bool), most int) sets.Set[T] {
	seen := sets.New[T]()
	for value := range draw {
		if seen.Len() == most {
			break
		}
		seen.Insert(value)
	}
	return seen
}

var _ = DescribeTable("node ports, against upstream's allocator", func(size int) {
	r := ports{first: 30000, last: 30000 + int32(size) - 1}
	upstream, err := portallocator.NewInMemory(net.PortRange{Base: 30000, Size: size})
	Expect(err).NotTo(HaveOccurred())
	dynamic := size - lowerPart(size, portShare, minPorts, maxPorts)
	theirs := sets.New[int32]()
	for range dynamic {
		port, err := upstream.AllocateNext()
		Expect(err).NotTo(HaveOccurred())
		theirs.Insert(int32(port))
	}
	Expect(distinct(r.draw, dynamic)).To(Equal(theirs), "the same ports are drawn first")
	all := distinct(r.draw, size+1)
	Expect(all).To(HaveLen(size))
	Expect(all.Has(r.first) && all.Has(r.last)).To(BeTrue())
	Expect(r.contains(r.first-1) || r.contains(r.last+1)).To(BeFalse())
},
	Entry(nil, 2768), Entry(nil, 10), Entry(nil, 16), Entry(nil, 17), Entry(nil, 300), Entry(nil, 8192),
)

var _ = DescribeTable("cluster addresses, against upstream's allocator", func(cidr string) {
	r, err := newAddresses(cidr)
	Expect(err).NotTo(HaveOccurred())
	_, subnet, err := netutils.ParseCIDRSloppy(cidr)
	Expect(err).NotTo(HaveOccurred())
	upstream, err := ipallocator.NewInMemory(subnet)
	Expect(err).NotTo(HaveOccurred())
	Expect(r.size).To(Equal(upstream.Free()), "as many addresses")
	dynamic := r.size - r.lower
	theirs := sets.New[netip.Addr]()
	for range dynamic {
		ip, err := upstream.AllocateNext()
		Expect(err).NotTo(HaveOccurred())
		theirs.Insert(netip.MustParseAddr(ip.String()))
	}
	ours := sets.New[netip.Addr]()
	for offset := range distinct(r.draw, dynamic) {
		ours.Insert(r.at(offset))
	}
	Expect(ours).To(Equal(theirs), "the same addresses are drawn first")
	Expect(distinct(r.draw, r.size+1)).To(HaveLen(r.size))
	for _, address := range []netip.Addr{r.at(1), r.at(r.size)} {
		Expect(r.contains(address)).To(BeTrue(), address.String())
	}
	Expect(r.contains(r.prefix.Addr())).To(BeFalse())
},
	Entry(nil, "10.96.0.0/16"), Entry(nil, "10.96.0.0/24"), Entry(nil, "10.96.0.0/28"), Entry(nil, "10.96.1.0/20"), Entry(nil, "fd00:10:96::/112"),
)

var _ = Describe("newAddresses", func() {
	It("knows the addresses that are set aside", func() {
		r, err := newAddresses("10.96.0.0/16")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.api()).To(Equal(netip.MustParseAddr("10.96.0.1")))
		Expect(r.dns()).To(Equal(netip.MustParseAddr("10.96.0.10")))
		Expect(r.contains(netip.MustParseAddr("10.96.255.255"))).To(BeFalse())
		_, err = newAddresses("10.96.0.0/30")
		Expect(err).To(MatchError(ContainSubstring("too small")))
		_, err = newAddresses("nonsense")
		Expect(err).To(HaveOccurred())
	})
})
