package replicaset

import (
	"errors"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = DescribeTable("slowStart calls in batches that double, and stops after one that fails",
	func(count, failFrom, wantDone, wantCalls int) {
		var calls atomic.Int64
		done, err := slowStart(count, func() error {
			if int(calls.Add(1)) >= failFrom {
				return errors.New("refused")
			}
			return nil
		})
		Expect(done).To(Equal(wantDone))
		Expect(int(calls.Load())).To(Equal(wantCalls))
		Expect(err != nil).To(Equal(wantDone < count))
	},
	Entry("nothing to do", 0, 1, 0, 0),
	Entry("all well", 10, 100, 10, 10),
	Entry("refused at once: one call only", 500, 1, 0, 1),
	Entry("refused in the third batch", 500, 5, 4, 7),
	Entry("a last batch that is cut short", 5, 100, 5, 5),
)
