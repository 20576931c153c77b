package garbage

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestGarbage(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "Garbage")
}

func percent() uint64 {
	samples := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64()
}

var _ = Describe("Pacing the collection of garbage", func() {
	It("lets garbage take the room that there is, within bounds", func() {
		p := pacer{room: 1 << 30}
		Expect(p.share(0)).To(Equal(most))
		Expect(p.share(100 << 20)).To(Equal(most))
		Expect(p.share(512 << 20)).To(Equal(200))
		Expect(p.share(4<<30)).To(Equal(usual), "never below what Go does by default")
	})

	It("collects seldom under load and as usual after it", func(ctx SpecContext) {
		Expect(percent()).To(BeEquivalentTo(usual))
		ctx2, cancel := context.WithCancel(ctx)
		p := pacer{room: 1 << 30, every: 10 * time.Millisecond, busy: 2 * time.Second, calm: 300 * time.Millisecond}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			p.run(ctx2)
		}()
		DeferCleanup(func() {
			cancel()
			Eventually(ended).Should(BeClosed())
			Expect(percent()).To(BeEquivalentTo(usual))
		})
		var waste [][]byte
		Eventually(func() uint64 {
			waste = nil
			for range 64 {
				waste = append(waste, make([]byte, 1<<20))
			}
			return percent()
		}, time.Minute, time.Millisecond).Should(BeEquivalentTo(most))
		Expect(waste).NotTo(BeEmpty())
		Eventually(percent).Should(BeEquivalentTo(usual))
		debug.FreeOSMemory()
	})
})
