package nftables_test

import (
	"fmt"
	"net/netip"
	locking "sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/network/spec"
)

// A packet may be on its way through the rules while a transaction replaces them: it must not see so
// little of either generation that the connection fails.
var _ = Describe("Churn", func() {
	It("fails no connection, however fast endpoints come and go", func() {
		const service = "10.96.0.20:80"
		w := newWorld()
		client, _ := w.pod("client")
		_, one := w.pod("one")
		_, two := w.pod("two")
		_, three := w.pod("three")
		divided := func(share int, first []netip.AddrPort, second ...netip.AddrPort) *spec.Frontend {
			f := frontend(append(first, second...)...)
			f.Slots, f.Groups = nil, []spec.Group{{Share: share, Slots: first}, {Share: spec.Shares - share, Slots: second}}
			return f
		}
		sticky := frontend(one, three)
		sticky.Affinity = time.Minute
		states := []*spec.Frontend{
			frontend(one), frontend(one, two, three), divided(900, []netip.AddrPort{one}, two, three), frontend(two, three),
			divided(10, []netip.AddrPort{one, two}, three), sticky,
		}
		w.apply(spec.Changes{key(service, tcp): states[0]})

		var asked atomic.Int64
		var mu locking.Mutex
		failed := map[string]int{}
		stop := make(chan struct{})
		var clients locking.WaitGroup
		for range 4 {
			clients.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					conn, err := client.Dial("tcp", service, patience)
					asked.Add(1)
					if err != nil {
						mu.Lock()
						failed[err.Error()]++
						mu.Unlock()
						continue
					}
					conn.Close()
				}
			})
		}
		changes := 0
		for start := time.Now(); time.Since(start) < 5*time.Second; changes++ {
			// The client is on the node: what it uses is now its own frontend, now everybody's.
			next := spec.Changes{key(service, tcp): states[changes%len(states)], within(key(service, tcp)): nil}
			if changes%5 < 2 {
				next[within(key(service, tcp))] = states[(changes+1)%len(states)]
			}
			w.apply(next)
		}
		close(stop)
		clients.Wait()
		AddReportEntry(fmt.Sprintf("%d connections, %d changes", asked.Load(), changes))
		Expect(failed).To(BeEmpty())
	})
})
