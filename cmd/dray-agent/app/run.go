package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"drayage.dev/agent/cgroups"
	"drayage.dev/agent/containerd"
	"drayage.dev/agent/images"
	"drayage.dev/agent/logs"
	agentnode "drayage.dev/agent/node"
	"drayage.dev/agent/objects"
	"drayage.dev/agent/podworker"
	"drayage.dev/agent/runtime/cri"
	"drayage.dev/agent/volumes"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/network/health"
	"drayage.dev/network/nftables"
	"drayage.dev/network/podnet"
	"drayage.dev/network/proxy"
	"drayage.dev/network/withdrawal"
)

// startPatience bounds the wait for the container runtime at start.
const startPatience = time.Minute

// agent is one node's parts, as far as they have been made.
type agent struct {
	*resolved
	log logr.Logger

	tree      *cgroups.Tree
	daemon    *containerd.Daemon
	conn      *grpc.ClientConn
	runtime   *cri.Runtime
	memory    int64
	client    client.Client
	clientset kubernetes.Interface
	cache     cache.Cache
	recorder  record.EventRecorderLogger
	reporter  *agentnode.Reporter
	network   *podnet.Manager
	services  *nftables.Table
	proxy     *proxy.Proxy
	health    *health.Server
	// withdrawal makes sure that no node sends a terminating pod new connections.
	withdrawal *withdrawal.Client
	objects    *objects.Client
	volumes    *volumes.Manager
	pods       *podworker.Manager

	// listener is the streaming server's; nil when the node has no certificate to serve with.
	listener      net.Listener
	streamingPort int32

	// started says that start is through.
	started atomic.Bool
	// parts are what runs until the context ends; the first that cannot go on ends the others.
	parts sync.WaitGroup
}

// Run runs the node until ctx ends or a part of it cannot go on. Pods and runtime go on after it, unless
// the configuration says otherwise. A stop in good order returns nil.
func Run(ctx context.Context, config Config) error {
	resolved, err := config.resolve()
	if err != nil {
		return err
	}
	log := logr.FromContextOrDiscard(ctx).WithName("agent")
	ctrllog.SetLogger(log)
	a := &agent{resolved: resolved, log: log}
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithCancelCause(logr.NewContext(ctx, log))
	defer cancel(nil)
	err = a.start(ctx, cancel)
	if err == nil {
		<-ctx.Done()
	}
	cancel(nil)
	a.parts.Wait()
	if failure := context.Cause(ctx); err == nil && failure != nil && !errors.Is(failure, context.Canceled) {
		err = failure
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if config.TakeDown {
		err = errors.Join(err, a.takeDown(context.WithoutCancel(ctx)))
	}
	a.close()
	return err
}

// part runs f until ctx ends; when f fails before, everything else ends, too.
func (a *agent) part(ctx context.Context, cancel context.CancelCauseFunc, name string, f func(context.Context) error) {
	a.parts.Go(func() {
		if err := f(ctx); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// lock keeps a second agent off this node's directories.
func (a *agent) lock() (unlock func(), err error) {
	for _, dir := range []string{a.agentDir(), a.agentDir("pods"), a.agentDir("logs", "pods"), a.agentDir("seccomp"), a.RunDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	file, err := os.OpenFile(a.lockFile(), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another agent runs on %s; stop it or choose another --data-dir", a.DataDir)
	}
	return func() { file.Close() }, nil
}

// start brings the parts up in the order in which they need each other.
func (a *agent) start(ctx context.Context, cancel context.CancelCauseFunc) error {
	for _, step := range []struct {
		name string
		run  func(context.Context, context.CancelCauseFunc) error
	}{
		{"showing health and metrics", a.startDiagnostics},
		{"starting the container runtime", a.startRuntime},
		{"reaching the API server", a.startClients},
		{"preparing the network", a.openNetwork},
		{"joining the pods' parts", a.joinPods},
		{"starting the network", a.startNetwork},
		{"registering the node", a.register},
		{"serving streams", a.startStreaming},
		{"starting pods", a.startPods},
	} {
		if err := step.run(ctx, cancel); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	a.started.Store(true)
	a.log.Info("Node runs", "node", a.NodeName, "addresses", a.addresses)
	return nil
}

func (a *agent) containerdConfig() containerd.Config {
	return containerd.Config{
		Binary: a.Containerd, DataDir: a.agentDir("containerd"), RunDir: containerdRunDir(a.Config),
		SandboxImage: a.SandboxImage, Plugin: a.plugin, Network: a.networkConfig,
		RegistryDir: a.agentDir("containerd", "certs.d"), MachineRegistryDir: "/etc/containerd/certs.d", Cgroups: a.tree, Cgroup: a.CgroupRoot + "/runtime",
	}
}

func containerdRunDir(config Config) string { return config.RunDir + "/containerd" }

func (a *agent) startRuntime(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	if a.memory, err = agentnode.Memory(); err != nil {
		return err
	}
	if a.tree, err = cgroups.Open(a.CgroupRoot); err != nil {
		return err
	}
	if err := a.tree.Create(a.CgroupRoot); err != nil {
		return err
	}
	if err := a.slot.limit(a.tree); err != nil {
		return fmt.Errorf("limiting the slot: %w", err)
	}
	if a.daemon, err = containerd.New(a.containerdConfig()); err != nil {
		return err
	}
	a.part(ctx, cancel, "keeping containerd", a.daemon.Run)
	if a.conn, err = a.daemon.Connect(); err != nil {
		return err
	}
	ready, done := context.WithTimeout(ctx, startPatience)
	defer done()
	name, version, err := a.daemon.Ready(ready, a.conn)
	if err != nil {
		return err
	}
	a.runtime = cri.New(cri.Config{Conn: a.conn, Cgroups: a.tree})
	if err := a.listen(); err != nil {
		return err
	}
	a.reporter, err = agentnode.New(a.nodeConfig(name + "://" + version))
	return err
}

// startClients makes the clients, and a cache that holds this node's pods only.
func (a *agent) startClients(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	if a.client, err = client.New(a.rest, client.Options{Scheme: scheme.New()}); err != nil {
		return err
	}
	if a.clientset, err = kubernetes.NewForConfig(a.rest); err != nil {
		return err
	}
	a.reporter.Connect(a.client, a.clientset)
	a.cache, err = cache.New(a.rest, cache.Options{
		Scheme: scheme.New(), SyncPeriod: ptr.To[time.Duration](0),
		DefaultTransform: cache.TransformStripManagedFields(), DefaultUnsafeDisableDeepCopy: ptr.To(true),
		ByObject: map[client.Object]cache.ByObject{
			&dcorev1.Pod{}:  {Field: fields.OneTermEqualSelector(dcorev1.NodeNameField, a.NodeName)},
			&dcorev1.Node{}: {Field: fields.OneTermEqualSelector("metadata.name", a.NodeName)},
		},
	})
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.clientset.CoreV1().Events("")})
	a.recorder = broadcaster.NewRecorder(scheme.New(), corev1.EventSource{Component: "drayage-agent", Host: a.NodeName})
	a.part(ctx, cancel, "following the API server", a.cache.Start)
	return nil
}

// register makes the Node and keeps it; pods are admitted by what it says.
func (a *agent) register(ctx context.Context, cancel context.CancelCauseFunc) error {
	if err := a.reporter.Register(ctx); err != nil {
		return err
	}
	a.part(ctx, cancel, "reporting the node", func(ctx context.Context) error {
		a.reporter.Run(ctx)
		return nil
	})
	return a.followNode(ctx, cancel)
}

// startPods takes over what runs here and follows the pods of this node.
func (a *agent) startPods(ctx context.Context, cancel context.CancelCauseFunc) error {
	source, err := a.cache.GetInformer(ctx, &dcorev1.Pod{})
	if err != nil {
		return err
	}
	a.part(ctx, cancel, "running pods", func(ctx context.Context) error { return a.pods.Run(ctx, source) })
	a.part(ctx, cancel, "rotating logs", func(ctx context.Context) error {
		logs.Rotator{Runtime: a.runtime}.Run(ctx)
		return nil
	})
	collector := &images.Collector{
		Images: runtimeapi.NewImageServiceClient(a.conn), Containers: runtimeapi.NewRuntimeServiceClient(a.conn),
		Dir: a.agentDir("containerd"), Keep: cmp.Or(a.SandboxImage, containerd.PauseImage),
	}
	a.part(ctx, cancel, "collecting images", func(ctx context.Context) error {
		collector.Run(ctx)
		return nil
	})
	return nil
}

// takeDown ends the pods and the runtime, and takes what they used off the machine. The data stays.
func (a *agent) takeDown(ctx context.Context) error {
	var failures []error
	if a.pods != nil {
		failures = append(failures, a.pods.Drain(ctx))
	}
	if a.daemon != nil {
		failures = append(failures, a.daemon.Stop(ctx))
	}
	return errors.Join(append(failures, Clean(ctx, a.Config))...)
}

func (a *agent) close() {
	if a.listener != nil {
		// Usually the streaming server has closed it already.
		_ = a.listener.Close()
	}
	if a.conn != nil {
		a.conn.Close()
	}
	if a.network != nil {
		_ = a.network.Close()
	}
	if a.services != nil {
		_ = a.services.Close()
	}
}
