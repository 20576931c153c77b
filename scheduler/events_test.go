package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"drayage.dev/scheduler"
)

// slowSink is an API server that answers a write when release is received from.
type slowSink struct {
	events.EventSink
	begun   chan string
	release chan struct{}
}

func (s *slowSink) Create(_ context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	s.begun <- event.Name
	<-s.release
	return event, nil
}

var _ = Describe("events", func() {
	const count = 5
	var (
		server  *slowSink
		sink    events.EventSink
		begin   func() func()
		cancel  context.CancelFunc
		results chan error
		write   func(context.Context, int)
	)
	BeforeEach(func(ctx context.Context) {
		ctx, cancel = context.WithCancel(context.WithoutCancel(ctx))
		server = &slowSink{begun: make(chan string, 2*count), release: make(chan struct{}, 2*count)}
		sink, begin = scheduler.EventsBehind(ctx, server, count)
		results = make(chan error, 2*count)
		var writers sync.WaitGroup
		DeferCleanup(func() {
			cancel()
			close(server.release)
			writers.Wait()
		})
		write = func(ctx context.Context, n int) {
			for i := range n {
				writers.Go(func() {
					_, err := sink.Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("event-", i)}})
					results <- err
				})
			}
		}
	})

	It("are written one at a time while many bindings are, and side by side afterwards", func(ctx context.Context) {
		var ends []func()
		for range scheduler.ManyBindings {
			ends = append(ends, begin())
		}
		write(ctx, count)
		Eventually(server.begun).Should(Receive())
		Consistently(server.begun, "200ms").ShouldNot(Receive(), "the second waits for the first")
		server.release <- struct{}{}
		Eventually(results).Should(Receive(BeNil()))
		Eventually(server.begun).Should(Receive(), "they come, even if the bindings never become few")
		Consistently(server.begun, "100ms").ShouldNot(Receive())

		ends[0]()
		for range count - 2 {
			Eventually(server.begun).Should(Receive())
		}
		for _, end := range ends[1:] {
			end()
		}
	})

	It("are dropped when too many wait, and not repeated", func(ctx context.Context) {
		write(ctx, count)
		for range count {
			Eventually(server.begun).Should(Receive())
		}
		_, err := sink.Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "late"}})
		Expect(apierrors.IsTooManyRequests(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring("dropping the event default/late")))
		var status *apierrors.StatusError
		Expect(errors.As(err, &status)).To(BeTrue(), "upstream's broadcaster repeats all other errors")
	})

	It("do not keep a scheduler that ends", func(ctx context.Context) {
		for range scheduler.ManyBindings {
			defer begin()()
		}
		write(ctx, 2)
		Eventually(server.begun).Should(Receive())
		Consistently(server.begun, "100ms").ShouldNot(Receive())
		cancel()
		Eventually(server.begun).Should(Receive())
	})
})
