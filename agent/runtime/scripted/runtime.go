package scripted

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/agent"
)

// Runtime is the agent's whole view of a container runtime. The zero value is not usable; see New.
type Runtime struct {
	mu     sync.Mutex
	pods   map[types.UID]*agent.PodState
	log    []string
	graces []time.Duration
	number int
	events []chan agent.Event
	// refused and missing are what Start and Ensure answer, by name of container and image.
	refused map[string]error
	missing map[string]*agent.ImageError
	// stubborn containers ignore SIGTERM, by name.
	stubborn map[string]bool
	execs    func(container string, command []string) (string, int)
}

var (
	_ agent.PodRuntime = (*Runtime)(nil)
	_ agent.Containers = (*Runtime)(nil)
	_ agent.Execs      = (*Runtime)(nil)
	_ agent.Events     = (*Runtime)(nil)
	_ agent.Images     = (*Runtime)(nil)
)

// New returns an empty runtime.
func New() *Runtime {
	return &Runtime{
		pods: map[types.UID]*agent.PodState{}, refused: map[string]error{}, missing: map[string]*agent.ImageError{}, stubborn: map[string]bool{},
	}
}

// Log returns what was done so far: "sandbox", "start main", "stop main", "remove" and so on.
func (r *Runtime) Log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Graces returns the grace period of each Stop of a running container so far.
func (r *Runtime) Graces() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.graces)
}

// Exit ends the newest container of that name with a code, as if its process had.
func (r *Runtime) Exit(pod types.UID, name string, code int32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.state(pod).Containers {
		container := &r.pods[pod].Containers[i]
		if container.Name == name && container.Phase == agent.ContainerRunning {
			r.end(container, code)
			r.tell(agent.Event{Pod: pod, ContainerID: container.ID})
			return nil
		}
	}
	return fmt.Errorf("no container %s of pod %s runs", name, pod)
}

// Refuse has every start of a container fail until err is nil.
func (r *Runtime) Refuse(name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused[name] = err
}

// Miss has an image be missing until failure is nil.
func (r *Runtime) Miss(image string, failure *agent.ImageError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missing[image] = failure
}

// Stubborn has a container ignore the request to end, so that its grace period runs out.
func (r *Runtime) Stubborn(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stubborn[name] = true
}

// OnExec answers commands.
func (r *Runtime) OnExec(answer func(container string, command []string) (string, int)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.execs = answer
}

func (r *Runtime) state(pod types.UID) *agent.PodState {
	if r.pods[pod] == nil {
		r.pods[pod] = &agent.PodState{UID: pod}
	}
	return r.pods[pod]
}

func (r *Runtime) end(container *agent.Container, code int32) {
	container.Phase, container.ExitCode, container.FinishedAt = agent.ContainerExited, code, time.Now()
}

func (r *Runtime) tell(event agent.Event) {
	for _, receiver := range r.events {
		select {
		case receiver <- event:
		default:
		}
	}
}

func (r *Runtime) id(kind string) string {
	r.number++
	return fmt.Sprintf("%s-%d", kind, r.number)
}

// Prepare implements agent.PodRuntime.
func (r *Runtime) Prepare(_ context.Context, plan *agent.PodPlan) (agent.Sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	metadata := plan.Config.Metadata
	pod := r.state(types.UID(metadata.Uid))
	pod.Namespace, pod.Name, pod.Labels = metadata.Namespace, metadata.Name, plan.Config.Labels
	if len(pod.Sandboxes) > 0 && pod.Sandboxes[0].Ready {
		return pod.Sandboxes[0], nil
	}
	r.number++
	sandbox := agent.Sandbox{
		ID: fmt.Sprintf("sandbox-%d", r.number), Attempt: uint32(len(pod.Sandboxes)), Ready: true, CreatedAt: time.Now(),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(r.number)})},
	}
	pod.Sandboxes = slices.Insert(pod.Sandboxes, 0, sandbox)
	r.log = append(r.log, "sandbox")
	return sandbox, nil
}

// Halt implements agent.PodRuntime.
func (r *Runtime) Halt(_ context.Context, uid types.UID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.halt(uid)
	return nil
}

func (r *Runtime) halt(uid types.UID) {
	pod := r.pods[uid]
	if pod == nil {
		return
	}
	for i := range pod.Containers {
		if pod.Containers[i].Phase == agent.ContainerRunning {
			r.end(&pod.Containers[i], 137)
		}
	}
	for i := range pod.Sandboxes {
		pod.Sandboxes[i].Ready = false
	}
	r.log = append(r.log, "halt")
}

// Remove implements agent.PodRuntime.
func (r *Runtime) Remove(_ context.Context, uid types.UID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pods[uid] != nil {
		delete(r.pods, uid)
		r.log = append(r.log, "remove")
	}
	return nil
}

// List implements agent.PodRuntime.
func (r *Runtime) List(_ context.Context, uids ...types.UID) ([]agent.PodState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var states []agent.PodState
	for uid, pod := range r.pods {
		if len(uids) == 0 || slices.Contains(uids, uid) {
			state := *pod
			state.Sandboxes, state.Containers = slices.Clone(pod.Sandboxes), slices.Clone(pod.Containers)
			states = append(states, state)
		}
	}
	return states, nil
}

// Start implements agent.Containers.
func (r *Runtime) Start(_ context.Context, uid types.UID, plan *agent.ContainerPlan) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	config := plan.Config
	name := config.Metadata.Name
	if err := r.refused[name]; err != nil {
		return "", &agent.ContainerError{Creating: true, Err: err}
	}
	pod := r.state(uid)
	container := agent.Container{
		ID: r.id(name), Name: name, Attempt: config.Metadata.Attempt, SandboxID: plan.SandboxID, Phase: agent.ContainerRunning,
		CreatedAt: time.Now(), StartedAt: time.Now(), Image: config.Image.Image, ImageRef: config.Image.Image, Annotations: config.Annotations,
	}
	pod.Containers = slices.Insert(pod.Containers, 0, container)
	r.log = append(r.log, "start "+name)
	return container.ID, nil
}

// Stop implements agent.Containers. A container that is not stubborn ends at once with code 0.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	r.mu.Lock()
	container := r.find(id)
	if container == nil || container.Phase != agent.ContainerRunning {
		r.mu.Unlock()
		return nil
	}
	name := container.Name
	r.log = append(r.log, "stop "+name)
	r.graces = append(r.graces, grace)
	if r.stubborn[name] {
		r.mu.Unlock()
		select {
		case <-time.After(grace):
		case <-ctx.Done():
			return ctx.Err()
		}
		r.mu.Lock()
		if container = r.find(id); container != nil {
			r.end(container, 137)
			r.log = append(r.log, "kill "+name)
		}
	} else {
		r.end(container, 0)
	}
	r.mu.Unlock()
	return nil
}

func (r *Runtime) find(id string) *agent.Container {
	for _, pod := range r.pods {
		for i := range pod.Containers {
			if pod.Containers[i].ID == id {
				return &pod.Containers[i]
			}
		}
	}
	return nil
}

// Delete implements agent.Containers.
func (r *Runtime) Delete(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pod := range r.pods {
		pod.Containers = slices.DeleteFunc(pod.Containers, func(c agent.Container) bool { return c.ID == id })
	}
	return nil
}

// Exec implements agent.Execs.
func (r *Runtime) Exec(_ context.Context, id string, command []string, _ time.Duration) ([]byte, int, error) {
	r.mu.Lock()
	container, answer := r.find(id), r.execs
	if container != nil {
		r.log = append(r.log, "exec "+container.Name)
	}
	r.mu.Unlock()
	if container == nil || answer == nil {
		return nil, 0, nil
	}
	output, code := answer(container.Name, command)
	return []byte(output), code, nil
}

// Watch implements agent.Events.
func (r *Runtime) Watch(ctx context.Context) <-chan agent.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := make(chan agent.Event, 64)
	r.events = append(r.events, events)
	out := make(chan agent.Event)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case event := <-events:
				select {
				case out <- event:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// Ensure implements agent.Images.
func (r *Runtime) Ensure(_ context.Context, request agent.ImageRequest) (*agent.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if failure := r.missing[request.Container.Image]; failure != nil {
		return nil, failure
	}
	return &agent.Image{ID: request.Container.Image, Ref: request.Container.Image}, nil
}
