package probes

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// Kind is one of the three probes that a container may have.
type Kind string

// The probes, as the texts of events name them.
const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// Target is a running container.
type Target struct {
	Pod         *corev1.Pod
	Container   *corev1.Container
	ContainerID string
	// PodIP is where network probes go unless they name a host.
	PodIP string
	// StartedAt is when the container started: the initial delays count from here.
	StartedAt time.Time
	// Restored says that the container was running before this process: its results stay as Was says
	// until a probe says otherwise, and its first probes are spread over a period.
	Restored bool
	Was      State
}

// State is what the probes of a container amount to.
type State struct {
	// Started says that there is no startup probe, or that it has succeeded.
	Started bool
	// Ready says that the container is started and its readiness probe, if any, succeeds.
	Ready bool
}

// Change tells that the State of a container has changed, or that it must be restarted.
type Change struct {
	Pod         types.UID
	Container   string
	ContainerID string
	// State is the state after the change. Changes of one container may be told in another order than
	// they happened in: Manager.State has the last word.
	State State
	// Failed is the probe that demands a restart (Startup or Liveness), else empty. It is told once; the
	// probe is then still until the next container is watched.
	Failed Kind
	// GracePeriodSeconds is the failed probe's own grace period; nil means the pod's.
	GracePeriodSeconds *int64
}

// Config is what a Manager needs.
type Config struct {
	// Exec runs a command in a container and returns its output, stdout and stderr together, and its exit
	// code. A command that outlives the timeout yields an error that wraps context.DeadlineExceeded.
	Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) (output []byte, exitCode int, err error)
	// Changed hears of every change, never under a lock, from a goroutine of the container's probe. It
	// must not block for long: the probe waits for it.
	Changed func(Change)
	// Event publishes an event about a container; reason and message are kubelet's.
	Event func(pod *corev1.Pod, container *corev1.Container, eventType, reason, message string)
	// Clock is the real one when nil.
	Clock clock.Clock
}

// Manager runs the probes of this node's containers, each in a goroutine of its own: three per container
// at most. It is safe for concurrent use.
type Manager struct {
	ctx    context.Context
	config Config
	prober *prober

	mu         sync.Mutex
	containers map[string]*container
}

// container is what the Manager knows of a watched container.
type container struct {
	target Target
	// started is closed when the other probes may begin.
	started chan struct{}
	// isStarted and isReady are guarded by the Manager's lock.
	isStarted, isReady bool
	// forget ends all workers, terminate those that a pod's deletion ends.
	forget, terminate context.CancelFunc
}

// New returns a Manager whose probes end when ctx does.
func New(ctx context.Context, config Config) *Manager {
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	return &Manager{ctx: ctx, config: config, prober: newProber(config), containers: map[string]*container{}}
}

// Watch starts the probes of a container that runs and returns its state at this moment. A container
// that is watched already is left alone.
func (m *Manager) Watch(target Target) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.containers[target.ContainerID]; known != nil {
		return known.state()
	}
	all, forget := context.WithCancel(m.ctx)
	living, terminate := context.WithCancel(all)
	if target.Pod.DeletionTimestamp != nil {
		terminate()
	}
	c := &container{
		target: target, started: make(chan struct{}), forget: forget, terminate: terminate,
		isStarted: target.Container.StartupProbe == nil || target.Restored && target.Was.Started,
		isReady:   target.Container.ReadinessProbe == nil || target.Restored && target.Was.Ready,
	}
	m.containers[target.ContainerID] = c
	if c.isStarted {
		close(c.started)
	} else {
		m.work(living, c, Startup, target.Container.StartupProbe)
	}
	m.work(living, c, Liveness, target.Container.LivenessProbe)
	m.work(all, c, Readiness, target.Container.ReadinessProbe)
	return c.state()
}

// State returns the state of a container; false when it is not watched.
func (m *Manager) State(containerID string) (State, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[containerID]
	if c == nil {
		return State{}, false
	}
	return c.state(), true
}

// Terminating stops the startup and liveness probes of a pod that is being deleted. Its readiness probes
// go on.
func (m *Manager) Terminating(pod types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.containers {
		if c.target.Pod.UID == pod {
			c.terminate()
		}
	}
}

// Forget stops the probes of a container and drops what is known of it. It does not wait for a probe
// that is under way, but that probe's result is heard of no more.
func (m *Manager) Forget(containerID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.containers[containerID]; c != nil {
		c.forget()
		delete(m.containers, containerID)
	}
}

// work starts the worker of one probe, if the container has it.
func (m *Manager) work(ctx context.Context, c *container, kind Kind, spec *corev1.Probe) {
	if spec != nil && ctx.Err() == nil {
		go (&worker{manager: m, container: c, kind: kind, spec: spec}).run(ctx)
	}
}

// settle records a result that has reached its threshold and tells what follows from it.
func (m *Manager) settle(ctx context.Context, w *worker, healthy bool) {
	c := w.container
	change := Change{Pod: c.target.Pod.UID, Container: c.target.Container.Name, ContainerID: c.target.ContainerID}
	m.mu.Lock()
	before := c.state()
	switch {
	case w.kind == Readiness:
		c.isReady = healthy
	case !healthy:
		change.Failed, change.GracePeriodSeconds = w.kind, w.spec.TerminationGracePeriodSeconds
	case w.kind == Startup && !c.isStarted:
		c.isStarted = true
		close(c.started)
	}
	change.State = c.state()
	stale := ctx.Err() != nil
	m.mu.Unlock()
	if !stale && (change.State != before || change.Failed != "") {
		m.config.Changed(change)
	}
}

// state needs the Manager's lock.
func (c *container) state() State {
	return State{Started: c.isStarted, Ready: c.isStarted && c.isReady}
}
