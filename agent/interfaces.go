package agent

import (
	"context"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/internal/node"
)

// PodRuntime makes and removes what holds a pod's containers: its sandbox.
// Every method is idempotent; the caller may die between any two of them.
type PodRuntime interface {
	// Prepare returns the pod's one live sandbox and makes it when there is none, or when the last
	// one has died; a dead one is stopped first, with its containers.
	Prepare(ctx context.Context, plan *PodPlan) (Sandbox, error)
	// Halt stops the pod's containers and sandboxes at once and keeps their records and logs, as a
	// pod that has completed leaves them.
	Halt(ctx context.Context, pod types.UID) error
	// Remove stops and removes the pod's containers and sandboxes, and kills whatever process is
	// left in the pod's cgroup. Nothing of the pod runs once it has returned nil.
	Remove(ctx context.Context, pod types.UID) error
	// List returns the pods that the runtime holds: all of them, known to the caller or not, or
	// only those named. A pod that it does not hold is left out.
	List(ctx context.Context, pods ...types.UID) ([]PodState, error)
}

// Containers starts and stops single containers in a prepared sandbox.
type Containers interface {
	// Start creates and starts a container. An error is a *ContainerError where the runtime refused.
	Start(ctx context.Context, pod types.UID, plan *ContainerPlan) (id string, err error)
	// Stop sends the container's stop signal, waits for at most grace, then kills. It returns nil
	// when the container is not running or is unknown.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Delete removes a container that is not running, its log file included.
	Delete(ctx context.Context, id string) error
}

// Execs runs commands inside running containers, for probes and lifecycle hooks.
type Execs interface {
	// Exec runs command and returns its output (bounded by the runtime) and exit code. A timeout of
	// zero means no limit beyond ctx's; an expired one is context.DeadlineExceeded.
	Exec(ctx context.Context, id string, command []string, timeout time.Duration) (output []byte, exitCode int, err error)
}

// Images makes sure that a container's image is on the node.
type Images interface {
	// Ensure pulls the container's image as its pull policy says. An error is an *ImageError, and it
	// is returned at once, without a pull, while the image backs off.
	Ensure(ctx context.Context, request ImageRequest) (*Image, error)
}

// Events tells that something of a pod's containers or sandbox may have changed.
type Events interface {
	// Watch returns a channel that is closed when ctx ends. Events are hints: the receiver lists
	// again. A slow receiver finds an Event with Overflow set in place of those that were dropped.
	Watch(ctx context.Context) <-chan Event
}

// PodNetwork wires sandboxes to the node's network. The network room's podnet.Manager satisfies it.
type PodNetwork interface {
	// Add wires the sandbox's network namespace, or returns the attachment that it has.
	Add(ctx context.Context, pod node.PodRef) (node.Attachment, error)
	// Remove takes the wiring and the addresses back; it returns nil when there is none.
	Remove(ctx context.Context, pod node.PodRef) error
	// Restore is called once, before anything else, with the sandboxes that live; it gives back
	// what belongs to none of them.
	Restore(ctx context.Context, live []node.PodRef) error
}

// PodObjects hands out the objects that a pod of this node refers to; the manager's broker stands
// behind it. agent/objects.Client satisfies it. Errors answer apierrors.IsNotFound and IsForbidden.
type PodObjects interface {
	Secret(ctx context.Context, pod types.UID, name string) (*corev1.Secret, error)
	ConfigMap(ctx context.Context, pod types.UID, name string) (*corev1.ConfigMap, error)
	Token(ctx context.Context, pod types.UID, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	// PullSecrets returns the names of the Secrets with the pod's registry credentials: its own or,
	// where it names none, its service account's.
	PullSecrets(ctx context.Context, pod types.UID) ([]string, error)
}

// Withdrawal knows when a terminating pod is gone from the service proxies of all Ready nodes. The network
// room's withdrawal.Client satisfies it.
type Withdrawal interface {
	// Await returns nil when no proxy sends the pod new connections any more, or ctx's error. The
	// caller bounds the wait.
	Await(ctx context.Context, pod types.UID) error
}
