package nftables_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
	"drayage.dev/network/spec"
)

type asker struct{ conn net.Conn }

func (a asker) Ask() (string, error) {
	name, _, err := netlab.AskOn(a.conn)
	return name, err
}

// listing is the table as the nft command shows it, a line for each element, in the order of the alphabet: the
// kernel lists elements and chains in any order.
func listing(w *world) ([]string, error) {
	output, err := exec.Command("nsenter", "--net="+w.Path, "nft", "list", "table", "ip", kernel.ServiceTable).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("listing the table: %w: %s", err, output)
	}
	return sorted(string(output)), nil
}

// expectSame compares two tables, listed anew each time: while the kernel rearranges a set, a listing of it may
// show elements twice or not at all.
func expectSame(one, other *world) {
	GinkgoHelper()
	Eventually(func() ([]string, error) {
		mine, err := listing(one)
		if err != nil {
			return nil, err
		}
		theirs, err := listing(other)
		return differing(mine, theirs), err
	}).Should(BeEmpty())
}

var elementSeparator = regexp.MustCompile(`,\s*`)

func sorted(listing string) []string {
	lines := strings.Split(elementSeparator.ReplaceAllString(strings.ReplaceAll(listing, "elements = {", "elements = {\n"), "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(lines[i]), "}"))
	}
	slices.Sort(lines)
	return lines
}

// differing are the lines that are not as often in one as in the other.
func differing(one, other []string) (lines []string) {
	counts := map[string]int{}
	for _, line := range one {
		counts[line]++
	}
	for _, line := range other {
		counts[line]--
	}
	for line, count := range counts {
		if count != 0 {
			lines = append(lines, fmt.Sprintf("%+d %s", count, line))
		}
	}
	return lines
}

var _ = Describe("The kernel's table", func() {
	sample := func() spec.Changes {
		return spec.Changes{
			key("10.96.0.20:80", tcp):           frontend(netip.MustParseAddrPort("10.244.3.2:8080"), netip.MustParseAddrPort("10.244.3.3:8080")),
			key("10.96.0.21:53", udp):           {Slots: []netip.AddrPort{netip.MustParseAddrPort("10.244.4.2:53")}, Affinity: 3 * time.Hour},
			key("192.0.2.1:30080", tcp):         {Masquerade: true, Slots: []netip.AddrPort{netip.MustParseAddrPort("10.244.3.2:8080")}},
			key("10.96.0.22:80", tcp):           {},
			within(key("192.0.2.1:30080", tcp)): frontend(netip.MustParseAddrPort("10.244.3.2:8080"), netip.MustParseAddrPort("10.244.4.2:8080")),
			key("192.0.2.1:80", tcp):            {Drop: true, Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
			key("10.96.0.23:80", tcp): {Affinity: time.Hour, Groups: []spec.Group{
				{Share: 900, Slots: []netip.AddrPort{netip.MustParseAddrPort("10.244.3.2:8080"), netip.MustParseAddrPort("10.244.3.3:8080")}},
				{Share: 100, Slots: []netip.AddrPort{netip.MustParseAddrPort("10.244.3.4:8080")}},
			}},
		}
	}

	It("is taken over by the next process without being touched", func() {
		w := newWorld()
		w.apply(sample())
		next := w.open()
		changed, err := next.Sync(sample())
		Expect(err).NotTo(HaveOccurred())
		Expect(changed).To(BeFalse())
		Expect(w.table.Touched()).To(BeFalse(), "nobody has written since")

		By("and brought up to date where something changed meanwhile")
		desired := sample()
		delete(desired, key("10.96.0.22:80", tcp))
		desired[key("10.96.0.20:80", tcp)] = frontend(netip.MustParseAddrPort("10.244.3.3:8080"))
		changed, err = next.Sync(desired)
		Expect(err).NotTo(HaveOccurred())
		Expect(changed).To(BeTrue())
		other := newWorld()
		other.apply(desired)
		expectSame(w, other)
	})

	It("is filled a part at a time where nobody is served yet, also after a process that did not finish", func() {
		desired := map[spec.Key]*spec.Frontend{}
		for n := range 700 {
			f := &spec.Frontend{Affinity: time.Duration(n%2) * time.Hour}
			for slot := range 10 {
				f.Slots = append(f.Slots, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), byte(slot)}), 8080))
			}
			desired[key(fmt.Sprintf("10.96.%d.%d:80", n/100, n%100), tcp)] = f
		}
		w := newWorld()
		left := "delete table ip drayage-services; add table ip drayage-services;" +
			"add set ip drayage-services hairpin { type ipv4_addr . ipv4_addr; elements = { 10.96.0.99 . 10.96.0.99 }; }"
		output, err := exec.Command("nsenter", "--net="+w.Path, "nft", left).CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(output))
		next := w.open()
		changed, err := next.Sync(desired)
		Expect(err).NotTo(HaveOccurred())
		Expect(changed).To(BeTrue())
		touched, err := next.Touched()
		Expect(err).NotTo(HaveOccurred())
		Expect(touched).To(BeFalse())
		other := newWorld()
		other.apply(desired)
		expectSame(w, other)
		changed, err = next.Sync(desired)
		Expect(err).NotTo(HaveOccurred())
		Expect(changed).To(BeFalse())
	})

	DescribeTable("is repaired after somebody else's change", func(command string) {
		w := newWorld()
		w.apply(sample())
		desired := sample()
		// This changes nothing in the kernel, and must not count as a change of it.
		desired[key("10.96.0.22:80", tcp)] = &spec.Frontend{Masquerade: true}
		w.apply(spec.Changes{key("10.96.0.22:80", tcp): desired[key("10.96.0.22:80", tcp)]})
		touched, err := w.table.Touched()
		Expect(err).NotTo(HaveOccurred())
		Expect(touched).To(BeFalse())
		output, err := exec.Command("nsenter", "--net="+w.Path, "nft", command).CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(output))
		touched, err = w.table.Touched()
		Expect(err).NotTo(HaveOccurred())
		Expect(touched).To(BeTrue())
		changed, err := w.table.Sync(desired)
		Expect(err).NotTo(HaveOccurred())
		Expect(changed).To(BeTrue())
		other := newWorld()
		other.apply(sample())
		expectSame(w, other)
		changed, err = w.table.Sync(desired)
		Expect(err).NotTo(HaveOccurred())
		Expect(changed).To(BeFalse())
		touched, err = w.table.Touched()
		Expect(err).NotTo(HaveOccurred())
		Expect(touched).To(BeFalse())
	},
		Entry("flush ruleset", "flush ruleset"),
		Entry("an element", "delete element ip drayage-services svc { 10.96.0.20 . tcp . 80 }"),
		Entry("a map's content", "flush map ip drayage-services ep"),
		Entry("a rule", "flush chain ip drayage-services prerouting"),
		Entry("a shape's rule", "flush chain ip drayage-services m2"),
		Entry("a group's rule", "flush chain ip drayage-services g1-1"),
		Entry("a group's share", "delete element ip drayage-services groups { 10.96.0.23 . tcp . 80 . 999 }"),
		Entry("who may come", "flush set ip drayage-services sources"),
		Entry("what the node's own clients use", "flush map ip drayage-services ep-in"),
		Entry("a foreign chain", "add chain ip drayage-services foreign"),
		Entry("a foreign element", "add element ip drayage-services hairpin { 10.96.0.99 . 10.96.0.99 }"),
	)

	It("comes to the same whichever way it went", func() {
		random := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 7))
		w := newWorld()
		state := map[spec.Key]*spec.Frontend{}
		for range 12 {
			for range 20 {
				changes := spec.Changes{}
				for range 1 + random.IntN(4) {
					changes[randomKey(random)] = randomFrontend(random)
				}
				for k, f := range changes {
					if f == nil {
						delete(state, k)
					} else {
						state[k] = f
					}
				}
				if random.IntN(10) > 0 {
					w.apply(changes)
					continue
				}
				// The process ended before it wrote this; the next one takes over and knows no changes.
				w.table = w.open()
				_, err := w.table.Sync(maps.Clone(state))
				Expect(err).NotTo(HaveOccurred())
			}
			fresh := newWorld()
			_, err := fresh.table.Sync(state)
			Expect(err).NotTo(HaveOccurred())
			expectSame(w, fresh)
			changed, err := w.open().Sync(state)
			Expect(err).NotTo(HaveOccurred())
			Expect(changed).To(BeFalse())
		}
	})

	It("holds ten thousand services with ten endpoints, and changes one of them", func() {
		w := newWorld()
		desired := spec.Changes{}
		for i := range 10_000 {
			f := &spec.Frontend{}
			for j := range 10 {
				f.Slots = append(f.Slots, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i % 250), byte(j + 1)}), 8080))
			}
			desired[key(fmt.Sprintf("10.96.%d.%d:80", i/250, i%250+1), tcp)] = f
		}
		start := time.Now()
		_, err := w.table.Sync(desired)
		Expect(err).NotTo(HaveOccurred())
		AddReportEntry("full sync", time.Since(start))
		k := key("10.96.7.7:80", tcp)
		start = time.Now()
		const rounds = 100
		for i := range rounds {
			f := *desired[k]
			f.Slots = slices.Clone(f.Slots)
			f.Slots[i%10] = netip.MustParseAddrPort(fmt.Sprintf("10.244.9.%d:8080", i+1))
			desired[k] = &f
			w.apply(spec.Changes{k: &f})
		}
		AddReportEntry("one endpoint", time.Since(start)/rounds)
		start = time.Now()
		changed, err := w.open().Sync(desired)
		Expect(err).NotTo(HaveOccurred())
		Expect(changed).To(BeFalse())
		AddReportEntry("takeover", time.Since(start))
	})
})

func randomKey(random *rand.Rand) spec.Key {
	return spec.Key{
		Addr:  netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + random.IntN(6))}),
		Proto: []uint8{tcp, udp}[random.IntN(2)], Port: uint16(80 + random.IntN(2)), Inside: random.IntN(4) == 0,
	}
}

func randomFrontend(random *rand.Rand) *spec.Frontend {
	if random.IntN(4) == 0 {
		return nil
	}
	f := &spec.Frontend{Masquerade: random.IntN(3) == 0, Drop: random.IntN(3) == 0}
	if random.IntN(3) == 0 {
		f.Affinity = time.Duration(1+random.IntN(2)) * time.Hour
	}
	for i := range random.IntN(5) {
		address := netip.AddrFrom4([4]byte{10, 244, 3, byte(2 + 3*i + random.IntN(3))})
		f.Slots = append(f.Slots, netip.AddrPortFrom(address, 8080))
		if random.IntN(2) == 0 {
			f.Local = append(f.Local, address)
		}
	}
	if len(f.Slots) > 1 && random.IntN(3) == 0 {
		share, cut := 1+random.IntN(spec.Shares-1), 1+random.IntN(len(f.Slots)-1)
		f.Groups = []spec.Group{{Share: share, Slots: f.Slots[:cut]}, {Share: spec.Shares - share, Slots: f.Slots[cut:]}}
		f.Slots = nil
	}
	for i := range random.IntN(8) - 5 {
		f.Sources = append(f.Sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16+random.IntN(17)).Masked())
	}
	return f
}
