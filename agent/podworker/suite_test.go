package podworker_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent/podworker"
	"drayage.dev/agent/resources"
	"drayage.dev/agent/runtime/scripted"
	"drayage.dev/agent/volumes"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/env"

	authenticationv1 "k8s.io/api/authentication/v1"
)

func TestPodWorker(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(30 * time.Second)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "pod workers")
}

var (
	api        *env.Env
	apiClient  client.WithWatch
	nodeNumber int
)

var _ = BeforeSuite(func() {
	ctx, cancel := context.WithCancel(context.Background())
	DeferCleanup(cancel)
	var err error
	api, err = env.Start(ctx)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(api.Stop()).To(Succeed()) })
	apiClient, err = api.Client()
	Expect(err).NotTo(HaveOccurred())
})

// The parts of a node that these specs are not about.
type noVolumes struct{}

func (noVolumes) Mount(context.Context, *corev1.Pod) (map[string]volumes.Volume, error) {
	return map[string]volumes.Volume{}, nil
}
func (noVolumes) Refresh(context.Context, *corev1.Pod) (time.Time, error) { return time.Time{}, nil }
func (noVolumes) Unmount(context.Context, types.UID) error                { return nil }
func (noVolumes) Mounts(*corev1.Pod, *corev1.Container, volumes.ContainerOptions) ([]*runtimeapi.Mount, func(), error) {
	return nil, func() {}, nil
}

type noCgroups struct{}

func (noCgroups) Create(string) error                        { return nil }
func (noCgroups) Limit(string, resources.Pod) error          { return nil }
func (noCgroups) RemovePod(context.Context, types.UID) error { return nil }
func (noCgroups) Pods() []types.UID                          { return nil }

type noObjects struct{}

func (noObjects) Secret(context.Context, types.UID, string) (*corev1.Secret, error) {
	return nil, fmt.Errorf("no secrets here")
}
func (noObjects) ConfigMap(context.Context, types.UID, string) (*corev1.ConfigMap, error) {
	return nil, fmt.Errorf("no config maps here")
}
func (noObjects) Token(context.Context, types.UID, *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return nil, fmt.Errorf("no tokens here")
}
func (noObjects) PullSecrets(context.Context, types.UID) ([]string, error) { return nil, nil }

// proxies is a Withdrawal that takes as long as a spec wants.
type proxies struct {
	mu      sync.Mutex
	gate    chan struct{}
	awaited []types.UID
}

func (p *proxies) Await(ctx context.Context, pod types.UID) error {
	p.mu.Lock()
	p.awaited = append(p.awaited, pod)
	gate := p.gate
	p.mu.Unlock()
	if gate == nil {
		return nil
	}
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hold has every Await wait until the returned channel is closed.
func (p *proxies) hold() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = make(chan struct{})
	return p.gate
}

// machine is a node whose runtime does what the spec says.
type machine struct {
	name    string
	dir     string
	runtime *scripted.Runtime
	proxies *proxies
	manager *podworker.Manager
	cpu     string
	// backoff is how long the first restart but one waits, bound how long the proxies are waited for. Both count
	// from the next start.
	backoff, bound time.Duration
	stop           context.CancelFunc
	done           chan error
}

func newMachine() *machine {
	GinkgoHelper()
	nodeNumber++
	m := &machine{
		name: fmt.Sprintf("node-%d-%d", GinkgoParallelProcess(), nodeNumber), dir: GinkgoT().TempDir(),
		runtime: scripted.New(), proxies: &proxies{}, cpu: "4", backoff: 300 * time.Millisecond, bound: time.Minute,
	}
	m.start()
	DeferCleanup(func() { m.end() })
	return m
}

// start runs a manager as an agent's start does.
func (m *machine) start() {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	m.stop, m.done = cancel, make(chan error, 1)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name, Labels: map[string]string{"kubernetes.io/os": "linux"}}}
	node.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(m.cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("10"),
	}
	source, err := cache.New(api.Config, cache.Options{Scheme: scheme.New(), ByObject: map[client.Object]cache.ByObject{
		&dcorev1.Pod{}: {Field: fields.OneTermEqualSelector(dcorev1.NodeNameField, m.name)},
	}})
	Expect(err).NotTo(HaveOccurred())
	go func() { _ = source.Start(ctx) }()
	informer, err := source.GetInformer(ctx, &dcorev1.Pod{})
	Expect(err).NotTo(HaveOccurred())
	m.manager = podworker.New(podworker.Config{
		Client: apiClient, Node: func() *corev1.Node { return node }, HostIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Hostname: m.name,
		MachineMemory: 8 << 30, Runtime: m.runtime, Containers: m.runtime, Execs: m.runtime, Events: m.runtime, Images: m.runtime,
		Objects: noObjects{}, Withdrawal: m.proxies, Volumes: noVolumes{}, Cgroups: noCgroups{}, ClusterDomain: "cluster.local",
		DNS:      func(context.Context, *corev1.Pod) (*runtimeapi.DNSConfig, error) { return &runtimeapi.DNSConfig{}, nil },
		Recorder: record.NewFakeRecorder(1000),
		PodsDir:  filepath.Join(m.dir, "pods"), LogsDir: filepath.Join(m.dir, "logs"), CgroupRoot: "/spec",
		Backoff: m.backoff, MaxBackoff: max(m.backoff, time.Second), WithdrawalBound: m.bound,
	})
	Expect(m.manager.Restore(ctx)).To(Succeed())
	go func() { m.done <- m.manager.Run(ctx, informer) }()
}

func (m *machine) end() {
	GinkgoHelper()
	if m.stop != nil {
		m.stop()
		Eventually(m.done).Should(Receive(BeNil()))
		m.stop = nil
	}
}

// restart ends the manager and runs the next.
func (m *machine) restart() {
	GinkgoHelper()
	m.end()
	m.start()
}

// pod makes a pod that is bound to the machine, with the finalizer that admission would give it.
func (m *machine) pod(name string, change func(*corev1.PodSpec)) *dcorev1.Pod {
	GinkgoHelper()
	pod := &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name + "-" + m.name, Finalizers: []string{dcorev1.NodeFinalizer}},
		Spec: corev1.PodSpec{
			NodeName: m.name, RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{container("main")},
		},
	}
	if change != nil {
		change(&pod.Spec)
	}
	Expect(apiClient.Create(context.Background(), pod)).To(Succeed())
	DeferCleanup(func(ctx context.Context) {
		Expect(client.IgnoreNotFound(apiClient.Delete(ctx, pod))).To(Succeed())
		Eventually(func() error {
			left := &dcorev1.Pod{}
			if err := apiClient.Get(ctx, client.ObjectKeyFromObject(pod), left); err != nil {
				return client.IgnoreNotFound(err)
			}
			left.Finalizers = nil
			return client.IgnoreNotFound(apiClient.Update(ctx, left))
		}).Should(Succeed())
	})
	return pod
}

func container(name string) corev1.Container {
	return corev1.Container{Name: name, Image: name + ":1", TerminationMessagePolicy: corev1.TerminationMessageReadFile}
}

func sidecar(name string) corev1.Container {
	c := container(name)
	always := corev1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	return c
}

// now returns the pod's status as the API shows it.
func now(pod *dcorev1.Pod) func() (dcorev1.PodStatus, error) {
	return func() (dcorev1.PodStatus, error) {
		found := &dcorev1.Pod{}
		err := apiClient.Get(context.Background(), client.ObjectKeyFromObject(pod), found)
		return found.Status, err
	}
}

func get(pod *dcorev1.Pod) func() error {
	return func() error {
		return apiClient.Get(context.Background(), client.ObjectKeyFromObject(pod), &dcorev1.Pod{})
	}
}
