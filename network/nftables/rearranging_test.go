package nftables_test

import (
	"fmt"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/network/spec"
)

var _ = Describe("A table that the kernel rearranges", func() {
	// The kernel moves a set that has grown to a larger hash table, in its own time. What it lists meanwhile has
	// elements twice, and lacks others.
	It("is read as it is", func() {
		w := newWorld()
		state, changes := map[spec.Key]*spec.Frontend{}, spec.Changes{}
		enter := func(n int) spec.Key {
			f := &spec.Frontend{}
			for slot := range 10 {
				f.Slots = append(f.Slots, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), byte(slot)}), 8080))
			}
			k := key(fmt.Sprintf("10.96.%d.%d:80", n/250, n%250), tcp)
			changes[k], state[k] = f, f
			return k
		}
		for n, size := 0, 50; size < 6_000; size += size / 4 {
			clear(changes)
			var last spec.Key
			for ; n < size; n++ {
				last = enter(n)
			}
			w.apply(changes)
			By("comparing it", func() {
				Expect(w.open().Compare(state)).To(BeEmpty())
			})
			By("taking it over, with one frontend that is to go", func() {
				w.table = w.open()
				gone := state[last]
				delete(state, last)
				Expect(w.table.Sync(state)).To(BeTrue())
				Expect(w.open().Sync(state)).To(BeFalse())
				state[last] = gone
				w.apply(spec.Changes{last: gone})
			})
		}
	})
})
