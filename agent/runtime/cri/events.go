package cri

import (
	"context"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	eventservice "github.com/containerd/containerd/api/services/events/v1"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"drayage.dev/agent"
	"drayage.dev/agent/containerd"
)

const (
	// eventBuffer is how many events a slow receiver may be behind.
	eventBuffer = 256
	// exitSettle bounds the wait until the container runtime interface tells of an exit that its
	// own containerd has announced already.
	exitSettle = 3 * time.Second
)

// Watch implements agent.Events.
func (r *Runtime) Watch(ctx context.Context) <-chan agent.Event {
	w := &watcher{runtime: r, events: make(chan agent.Event, eventBuffer), overflow: make(chan struct{}, 1), states: map[string]int32{}}
	out := make(chan agent.Event)
	go func() {
		defer close(out)
		w.deliver(ctx, out)
	}()
	go w.subscribe(ctx)
	go wait.UntilWithContext(ctx, w.relist, r.config.RelistEvery)
	return out
}

// watcher feeds one receiver.
type watcher struct {
	runtime *Runtime
	events  chan agent.Event
	// overflow holds a token when events were dropped.
	overflow chan struct{}
	// states is what the last relist saw, by id of sandbox or container; only relist uses it.
	states map[string]int32
}

func (w *watcher) emit(event agent.Event) {
	select {
	case w.events <- event:
	default:
		w.lost()
	}
}

func (w *watcher) lost() {
	select {
	case w.overflow <- struct{}{}:
	default:
	}
}

func (w *watcher) deliver(ctx context.Context, out chan<- agent.Event) {
	for {
		var event agent.Event
		select {
		case <-ctx.Done():
			return
		case <-w.overflow:
			event = agent.Event{Overflow: true}
		case event = <-w.events:
		}
		select {
		case <-ctx.Done():
			return
		case out <- event:
		}
	}
}

// subscribe follows containerd's exits and out-of-memory kills. A broken stream may have lost some.
func (w *watcher) subscribe(ctx context.Context) {
	client := eventservice.NewEventsClient(w.runtime.config.Conn)
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		stream, err := client.Subscribe(containerd.InNamespace(ctx), &eventservice.SubscribeRequest{Filters: []string{
			`namespace==k8s.io,topic=="/tasks/exit"`, `namespace==k8s.io,topic=="/tasks/oom"`,
		}})
		if err != nil {
			return
		}
		for first := true; ; first = false {
			envelope, err := stream.Recv()
			if err != nil {
				w.lost()
				return
			}
			if first {
				w.lost()
			}
			w.task(ctx, envelope.Topic, envelope.Event.GetValue())
		}
	}, 200*time.Millisecond)
}

// task passes one event on. Exits of commands that were executed in a container are not the container's.
func (w *watcher) task(ctx context.Context, topic string, data []byte) {
	switch topic {
	case "/tasks/exit":
		exit := &eventsapi.TaskExit{}
		if proto.Unmarshal(data, exit) == nil && exit.ID == exit.ContainerID {
			go w.settle(ctx, exit.ContainerID)
		}
	case "/tasks/oom":
		oom := &eventsapi.TaskOOM{}
		if proto.Unmarshal(data, oom) == nil {
			w.emit(agent.Event{ContainerID: oom.ContainerID, Pod: w.pod(ctx, oom.ContainerID), OOM: true})
		}
	}
}

// settle waits until the runtime interface shows the exit, since the receiver will list there.
func (w *watcher) settle(ctx context.Context, id string) {
	_ = wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, exitSettle, true, func(ctx context.Context) (bool, error) {
		container, err := w.runtime.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err == nil {
			return container.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING, nil
		}
		sandbox, err := w.runtime.client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
		return err != nil || sandbox.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY, nil
	})
	w.emit(agent.Event{ContainerID: id, Pod: w.pod(ctx, id)})
}

// pod finds the pod of a container or sandbox; empty when it has been removed already.
func (w *watcher) pod(ctx context.Context, id string) types.UID {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if answer, err := w.runtime.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id}); err == nil {
		return types.UID(answer.Status.Labels[kubelettypes.KubernetesPodUIDLabel])
	}
	if answer, err := w.runtime.client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id}); err == nil {
		return types.UID(answer.Status.Labels[kubelettypes.KubernetesPodUIDLabel])
	}
	return ""
}

// relist compares the runtime's lists with those of the last time.
func (w *watcher) relist(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sandboxes, err := w.runtime.podSandboxes(ctx, "")
	if err != nil {
		return
	}
	containers, err := w.runtime.podContainers(ctx, "")
	if err != nil {
		return
	}
	now := make(map[string]int32, len(sandboxes)+len(containers))
	changed := map[types.UID]string{}
	see := func(id string, state int32, labels map[string]string) {
		now[id] = state
		if before, known := w.states[id]; !known || before != state {
			changed[types.UID(labels[kubelettypes.KubernetesPodUIDLabel])] = id
		}
	}
	for _, sandbox := range sandboxes {
		see(sandbox.Id, int32(sandbox.State), sandbox.Labels)
	}
	for _, container := range containers {
		see(container.Id, int32(container.State), container.Labels)
	}
	w.states = now
	for pod, id := range changed {
		w.emit(agent.Event{Pod: pod, ContainerID: id})
	}
}
