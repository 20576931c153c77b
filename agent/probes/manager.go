package probes

import (
	"context"
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
	State       State
	// Failed is the probe that demands a restart (Startup or Liveness), else empty.
	Failed Kind
	// GracePeriodSeconds is the failed probe's own grace period; nil means the pod's.
	GracePeriodSeconds *int64
}

// Config is what a Manager needs.
type Config struct {
	// Exec runs a command in a container and returns its output, stdout and stderr together. A command
	// that exits with another code than 0 yields an error with the method ExitStatus() int, as
	// k8s.io/utils/exec.CodeExitError has; one that outlives the timeout yields an error that wraps
	// context.DeadlineExceeded.
	Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) ([]byte, error)
	// Changed hears of every change, never under a lock, from a goroutine of the container's probe.
	Changed func(Change)
	// Event publishes an event about a container; reason and message are kubelet's.
	Event func(pod *corev1.Pod, container *corev1.Container, eventType, reason, message string)
	// Clock is the real one when nil.
	Clock clock.WithTicker
}

// Manager runs the probes of this node's containers. It is safe for concurrent use.
type Manager struct{ Config }

// New returns a Manager whose probes end when ctx does.
func New(ctx context.Context, config Config) *Manager { return &Manager{Config: config} }

// Watch starts the probes of a container that runs and returns its state at this moment. A container
// that is watched already is left alone.
func (m *Manager) Watch(target Target) State { panic("not implemented") }

// State returns the state of a container; false when it is not watched.
func (m *Manager) State(containerID string) (State, bool) { panic("not implemented") }

// Terminating stops the startup and liveness probes of a pod that is being deleted. Its readiness probes
// go on.
func (m *Manager) Terminating(pod types.UID) { panic("not implemented") }

// Forget stops the probes of a container and drops what is known of it. It does not wait for a probe
// that is under way, but that probe's result is heard of no more.
func (m *Manager) Forget(containerID string) { panic("not implemented") }
