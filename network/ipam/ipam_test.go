package ipam_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/network/ipam"
)

var _ = Describe("Pool", func() {
	var (
		dir  string
		pool *ipam.Pool
	)
	within := netip.MustParsePrefix("10.244.1.0/28")

	reopen := func() {
		GinkgoHelper()
		var err error
		pool, err = ipam.Open(dir)
		Expect(err).NotTo(HaveOccurred())
	}
	BeforeEach(func() {
		dir = filepath.Join(GinkgoT().TempDir(), "addresses")
		reopen()
	})
	acquire := func(owner string) netip.Addr {
		GinkgoHelper()
		address, err := pool.Acquire(owner, "", within)
		Expect(err).NotTo(HaveOccurred())
		return address
	}

	It("gives every usable address once, then says so", func() {
		seen := map[netip.Addr]bool{}
		for i := range 14 {
			seen[acquire(fmt.Sprint(i))] = true
		}
		Expect(seen).To(HaveLen(14))
		Expect(seen).NotTo(HaveKey(within.Addr()))
		Expect(seen).NotTo(HaveKey(netip.MustParseAddr("10.244.1.15")))
		_, err := pool.Acquire("one too many", "", within)
		Expect(err).To(MatchError(ipam.ErrExhausted))
		Expect(pool.Release("7")).To(Succeed())
		acquire("fits again")
	})

	It("lets a released address rest, across a restart too", func() {
		first := acquire("a")
		Expect(pool.Release("a")).To(Succeed())
		reopen()
		Expect(acquire("b")).NotTo(Equal(first))
	})

	It("gives an owner one address, however often it asks", func() {
		Expect(acquire("a")).To(Equal(acquire("a")))
		reopen()
		Expect(acquire("a")).To(Equal(pool.Leases()[0].Address))
	})

	It("hands out IPv6 addresses of a range that cannot be walked", func() {
		six := netip.MustParsePrefix("fd00:1::/64")
		a, err := pool.Acquire("a", "", six)
		Expect(err).NotTo(HaveOccurred())
		b, err := pool.Acquire("b", "", six)
		Expect(err).NotTo(HaveOccurred())
		Expect(a).NotTo(Equal(b))
		reopen()
		Expect(pool.Leases()).To(HaveLen(2))
	})

	It("survives what crashes and power cuts leave behind", func() {
		taken := acquire("a")
		By("a temporary file that was never linked")
		Expect(os.WriteFile(filepath.Join(dir, "tmp-123"), []byte("{"), 0o600)).To(Succeed())
		By("a lease whose content never reached the disk")
		Expect(os.WriteFile(filepath.Join(dir, "10.244.1.2"), nil, 0o600)).To(Succeed())
		reopen()
		Expect(filepath.Join(dir, "tmp-123")).NotTo(BeAnExistingFile())
		for i := range 12 {
			Expect(acquire(fmt.Sprint(i))).NotTo(BeElementOf(taken, netip.MustParseAddr("10.244.1.2")))
		}
		Expect(pool.Retain(func(lease ipam.Lease) bool { return lease.Owner == "a" })).To(Succeed())
		Expect(pool.Leases()).To(HaveLen(1))
	})

	It("adopts what the runtime remembers, never against another owner", func() {
		address := netip.MustParseAddr("10.244.1.9")
		Expect(pool.Adopt("a", "", address)).To(Succeed())
		Expect(pool.Adopt("a", "", address)).To(Succeed())
		Expect(pool.Adopt("b", "", address)).To(MatchError(ContainSubstring("belongs to a")))
	})

	It("never doubles an address in any sequence with restarts", func() {
		random := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 1))
		owned := map[string]netip.Addr{}
		for range 2000 {
			owner := fmt.Sprint(random.IntN(12))
			switch random.IntN(5) {
			case 0:
				Expect(pool.Release(owner)).To(Succeed())
				delete(owned, owner)
			case 1:
				reopen()
			default:
				owned[owner] = acquire(owner)
			}
			byAddress := map[netip.Addr]string{}
			for owner, address := range owned {
				Expect(byAddress).NotTo(HaveKey(address))
				byAddress[address] = owner
			}
			Expect(pool.Leases()).To(HaveLen(len(owned)))
		}
	})
})
