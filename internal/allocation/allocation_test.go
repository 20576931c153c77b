package allocation_test

import (
	"math/rand"
	"net/netip"
	"strconv"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/util/validation"

	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/internal/allocation"
)

func TestAllocation(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "allocation")
}

var owner = dnetworkingv1alpha1.AllocationOwner{Kind: "Service", Namespace: "shop", Name: "web", UID: "u1"}

func check(claim *dnetworkingv1alpha1.Allocation, kind dnetworkingv1alpha1.AllocationType, value string) {
	GinkgoHelper()
	Expect(claim.Spec).To(Equal(dnetworkingv1alpha1.AllocationSpec{Type: kind, Value: value, Owner: owner}))
	Expect(validation.IsDNS1123Subdomain(claim.Name)).To(BeEmpty(), claim.Name)
	gotKind, gotValue, err := allocation.Parse(claim.Name)
	Expect(err).NotTo(HaveOccurred())
	Expect(gotKind).To(Equal(kind))
	Expect(gotValue).To(Equal(value))
}

var _ = Describe("names", func() {
	It("are those of the API's documentation", func() {
		Expect(allocation.ServiceIP(netip.MustParseAddr("10.96.0.1"), owner).Name).To(Equal("ip-10-96-0-1"))
		Expect(allocation.ServiceIP(netip.MustParseAddr("fd00::"), owner).Name).To(Equal("ip-fd00-0000-0000-0000-0000-0000-0000-0000"))
		Expect(allocation.NodePort(30080, owner).Name).To(Equal("nodeport-30080"))
		Expect(allocation.PodCIDR(netip.MustParsePrefix("10.244.1.7/24"), owner).Name).To(Equal("podcidr-10-244-1-0-24"))
	})

	It("come back as they went, for any address, port and range", func() {
		random := rand.New(rand.NewSource(GinkgoRandomSeed()))
		for range 20000 {
			var four [4]byte
			var six [16]byte
			random.Read(four[:])
			random.Read(six[:])
			if random.Intn(2) == 0 {
				clear(six[random.Intn(16):])
			}
			for _, address := range []netip.Addr{netip.AddrFrom4(four), netip.AddrFrom16(six).Unmap()} {
				check(allocation.ServiceIP(address, owner), dnetworkingv1alpha1.ServiceIP, address.String())
				cidr, err := address.Prefix(random.Intn(address.BitLen() + 1))
				Expect(err).NotTo(HaveOccurred())
				check(allocation.PodCIDR(cidr, owner), dnetworkingv1alpha1.PodCIDR, cidr.String())
			}
			port := random.Intn(65536)
			check(allocation.NodePort(int32(port), owner), dnetworkingv1alpha1.NodePort, strconv.Itoa(port))
		}
	})

	It("are one for one thing", func() {
		mapped := allocation.ServiceIP(netip.MustParseAddr("::ffff:10.96.0.1"), owner)
		Expect(mapped).To(Equal(allocation.ServiceIP(netip.MustParseAddr("10.96.0.1"), owner)))
		Expect(allocation.ServiceIP(netip.MustParseAddr("fe80::1%eth0"), owner)).To(Equal(allocation.ServiceIP(netip.MustParseAddr("fe80::1"), owner)))
	})

	DescribeTable("that claim nothing are refused", func(name string) {
		_, _, err := allocation.Parse(name)
		Expect(err).To(MatchError(ContainSubstring(name)))
	},
		Entry(nil, "10-96-0-1"), Entry(nil, "ip-10-96-0"), Entry(nil, "ip-010-96-0-1"), Entry(nil, "ip-fd00--1"),
		Entry(nil, "nodeport-030080"), Entry(nil, "nodeport-70000"), Entry(nil, "nodeport-"), Entry(nil, "podcidr-10-244-1-0"),
		Entry(nil, "podcidr-10-244-1-1-24"), Entry(nil, "podcidr-10-244-1-0-33"), Entry(nil, "ip-0000-0000-0000-0000-0000-ffff-0a60-0001"),
	)
})
