package podworker

import (
	"context"
	"net/netip"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent"
	"drayage.dev/agent/probes"
	"drayage.dev/agent/resources"
	"drayage.dev/agent/volumes"
)

// Volumes puts a pod's volumes on the node. agent/volumes.Manager satisfies it.
type Volumes interface {
	Mount(ctx context.Context, pod *corev1.Pod) (map[string]volumes.Volume, error)
	Refresh(ctx context.Context, pod *corev1.Pod) (time.Time, error)
	Unmount(ctx context.Context, pod types.UID) error
	Mounts(pod *corev1.Pod, container *corev1.Container, options volumes.ContainerOptions) ([]*runtimeapi.Mount, func(), error)
}

// Probes watches over running containers. agent/probes.Manager satisfies it.
type Probes interface {
	Watch(target probes.Target) probes.State
	State(containerID string) (probes.State, bool)
	Terminating(pod types.UID)
	Forget(containerID string)
}

// Cgroups holds the pods' control groups. agent/cgroups.Tree satisfies it.
type Cgroups interface {
	Create(path string) error
	Limit(path string, values resources.Pod) error
	RemovePod(ctx context.Context, pod types.UID) error
	Pods() []types.UID
}

// Config is what a Manager needs. Every field is required unless it says otherwise.
type Config struct {
	// Client writes statuses and finalizers, with the node's identity.
	Client client.Client
	// Node returns the node as it was registered; its allocatable resources decide admission.
	Node func() *corev1.Node
	// HostIPs are the node's addresses, the primary one first; Hostname is the machine's.
	HostIPs  []netip.Addr
	Hostname string
	// MachineMemory is the machine's memory in bytes.
	MachineMemory int64

	Runtime    agent.PodRuntime
	Containers agent.Containers
	Execs      agent.Execs
	Events     agent.Events
	Images     agent.Images
	Objects    agent.PodObjects
	Withdrawal agent.Withdrawal
	// Network may be nil: then the runtime's own is all there is to wire pods.
	Network agent.PodNetwork
	Volumes Volumes
	Cgroups Cgroups

	// ClusterDomain is the cluster's DNS domain, such as "cluster.local".
	ClusterDomain string
	// DNS returns what /etc/resolv.conf of a pod says.
	DNS func(ctx context.Context, pod *corev1.Pod) (*runtimeapi.DNSConfig, error)
	// Services returns the services of a namespace, and default/kubernetes, for the environment of
	// containers; nil means none.
	Services func(ctx context.Context, namespace string) ([]*corev1.Service, error)
	// Recorder publishes events; it must take *corev1.ObjectReference for an object.
	Recorder record.EventRecorder

	// PodsDir holds a directory per pod, named after its UID. LogsDir holds the containers' logs, in
	// kubelet's layout. CgroupRoot is the parent of the pods' cgroups.
	PodsDir, LogsDir, CgroupRoot string
	// SeccompDir is where localhost seccomp profiles are looked for.
	SeccompDir string

	// Backoff and MaxBackoff are the first and the longest wait before a container that ended is
	// started again; 10 s and 300 s when zero, as kubelet's. Twice the longest of running well forgets it.
	Backoff, MaxBackoff time.Duration
	// WithdrawalBound is the longest that a terminating pod waits to leave the proxies; 2 s when zero.
	WithdrawalBound time.Duration
	// Clock is the real one when nil.
	Clock clock.Clock
}

func (c *Config) setDefaults() {
	if c.Backoff == 0 {
		c.Backoff = 10 * time.Second
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = 300 * time.Second
	}
	if c.WithdrawalBound == 0 {
		c.WithdrawalBound = 2 * time.Second
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
}

// podDir is the pod's directory; volumes keeps its own below it.
func (c *Config) podDir(pod types.UID) string { return filepath.Join(c.PodsDir, string(pod)) }

// logDir is where the pod's logs are, found by UID alone when its name is not known any more.
func (c *Config) logDir(namespace, name string, pod types.UID) string {
	return filepath.Join(c.LogsDir, namespace+"_"+name+"_"+string(pod))
}
