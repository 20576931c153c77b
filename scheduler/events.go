package scheduler

import (
	"context"
	"fmt"
	"sync/atomic"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
)

const (
	// eventWriters is how many events are written at a time while few bindings are.
	eventWriters = 16
	// maxEvents is how many events may wait. More are dropped and counted: upstream's broadcaster keeps a goroutine for
	// each.
	maxEvents = 20_000
)

// eventSink writes events behind bindings: an event tells of a pod that has its node, while a binding that waits is a pod that
// does not start. While many bindings are under way one event is written at a time, so that events come late but come.
type eventSink struct {
	events.EventSink
	pace    *pace
	writers chan struct{}
	limit   int64
	waiting atomic.Int64
}

func newEventSink(sink events.EventSink, p *pace) *eventSink {
	return &eventSink{EventSink: sink, pace: p, writers: make(chan struct{}, eventWriters), limit: maxEvents}
}

func (s *eventSink) Create(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	return s.write(ctx, event, s.EventSink.Create)
}

func (s *eventSink) Update(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	return s.write(ctx, event, s.EventSink.Update)
}

func (s *eventSink) Patch(ctx context.Context, event *eventsv1.Event, data []byte) (*eventsv1.Event, error) {
	return s.write(ctx, event, func(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
		return s.EventSink.Patch(ctx, event, data)
	})
}

// write waits for the event's turn. The broadcaster does not repeat an event that is dropped, since the error has a status.
func (s *eventSink) write(
	ctx context.Context, event *eventsv1.Event, write func(context.Context, *eventsv1.Event) (*eventsv1.Event, error),
) (*eventsv1.Event, error) {
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > s.limit {
		eventsDropped.Inc()
		return nil, apierrors.NewTooManyRequestsError(fmt.Sprintf("dropping the event %s/%s: %d others wait to be written", event.Namespace, event.Name, s.limit))
	}
	select {
	case s.writers <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.writers }()
	defer s.pace.writeEvent()()
	return write(ctx, event)
}
