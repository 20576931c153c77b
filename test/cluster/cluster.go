package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/internal/scheme"
	"drayage.dev/test/images"
)

// Options choose what a cluster has. The zero value is a control plane and one node.
type Options struct {
	// Nodes is how many nodes are started, named n1, n2, ...; 0 means 1.
	Nodes int
	// Routed is how many of the nodes, the last ones, are on a subnet of their own behind a router that
	// knows no pod. No node has a default route.
	Routed int
	// ServerArgs, ManagerArgs, SchedulerArgs and AgentArgs are added to the components' command lines.
	ServerArgs, ManagerArgs, SchedulerArgs, AgentArgs []string
}

// Cluster is a running cluster.
type Cluster struct {
	// Dir holds everything that the cluster keeps on disk; logs are below Dir/logs.
	Dir string
	// Server, Manager and Scheduler are the processes of the control plane.
	Server, Manager, Scheduler *Process
	// Nodes are the nodes, in order.
	Nodes []*Node
	// Config reaches the API server as administrator; Client uses it.
	Config *rest.Config
	Client client.WithWatch

	id        string
	options   Options
	fabric    *fabric
	server    *Namespace
	registry  *images.Registry
	token     string
	namespace []*Namespace
}

// subnet is one link of the fabric.
type subnet struct{ netip.Prefix }

// router is the router's address on the subnet.
func (s subnet) router() netip.Addr { return s.host(1) }

func (s subnet) host(number byte) netip.Addr {
	address := s.Addr().As4()
	address[3] = number
	return netip.AddrFrom4(address)
}

// subnets are that of the control plane and most nodes, and that behind the router.
var subnets = [2]subnet{{netip.MustParsePrefix("172.30.0.0/24")}, {netip.MustParsePrefix("172.31.0.0/24")}}

const (
	serverAddress = "172.30.0.2"
	serverURL     = "https://" + serverAddress + ":6443"
	registryPort  = "5000"
)

// Start starts a cluster and waits until its API server is ready and its nodes are Ready. On failure it
// removes what it made; the error carries the ends of the components' logs.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("starting a cluster: it needs root, for namespaces and containers")
	}
	if options.Nodes == 0 {
		options.Nodes = 1
	}
	random := make([]byte, 3)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	c := &Cluster{id: "dray-" + hex.EncodeToString(random), options: options}
	if err := c.start(ctx); err != nil {
		err = fmt.Errorf("starting cluster %s: %w\n%s", c.id, err, c.Tails(25))
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) (err error) {
	if c.Dir, err = os.MkdirTemp("", c.id+"-"); err != nil {
		return err
	}
	if err := Roomy(c.Dir); err != nil {
		return err
	}
	built, err := images.Build(ctx)
	if err != nil {
		return err
	}
	if c.registry, err = images.NewRegistry(ctx, built); err != nil {
		return err
	}
	if c.fabric, err = newFabric(c.id + "-fabric"); err != nil {
		return err
	}
	c.namespace = append(c.namespace, c.fabric.Namespace)
	if c.options.Routed > 0 {
		router, err := c.fabric.newRouter(c.id + "-router")
		if err != nil {
			return err
		}
		c.namespace = append(c.namespace, router)
	}
	c.server, err = c.newHost("server", 0, netip.MustParseAddr(serverAddress))
	if c.server != nil {
		c.namespace = append(c.namespace, c.server)
	}
	if err != nil {
		return err
	}
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	for i := range c.options.Nodes {
		node, err := c.newNode(i + 1)
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, node)
		if err := node.PowerOn(ctx); err != nil {
			return err
		}
	}
	for _, node := range c.Nodes {
		if err := node.WaitReady(ctx, 3*time.Minute); err != nil {
			return err
		}
	}
	return nil
}

// Roomy refuses the disk of a directory when it is so full that nodes there report DiskPressure and get no pods: specs
// would wait for them in vain.
func Roomy(dir string) error {
	const leastPercent = 10
	disk := unix.Statfs_t{}
	if err := unix.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("asking the disk of %s for its room: %w", dir, err)
	}
	if disk.Bavail*100 < disk.Blocks*leastPercent {
		return fmt.Errorf("less than %d %% of the disk of %s is free: nodes there get no pods", leastPercent, dir)
	}
	return nil
}

// newHost makes a namespace on a subnet of the fabric. When it is not complete, it is returned with the error.
func (c *Cluster) newHost(name string, on int, address netip.Addr) (*Namespace, error) {
	namespace, err := NewNamespace(c.id + "-" + name)
	if err != nil {
		return nil, err
	}
	if err := c.fabric.join(namespace, "eth0", name, on, netip.PrefixFrom(address, subnets[on].Bits())); err != nil || c.options.Routed == 0 {
		return namespace, err
	}
	return namespace, namespace.route(subnets[1-on].Prefix, subnets[on].router())
}

func (c *Cluster) startControlPlane(ctx context.Context) error {
	dataDir := filepath.Join(c.Dir, "server")
	c.Server = c.process("server", c.server, append([]string{
		"dray", "server", "--data-dir", dataDir, "--disable", "manager,scheduler",
		"--advertise-address", serverAddress,
	}, c.options.ServerArgs...)...)
	if err := c.Server.Start(); err != nil {
		return err
	}
	kubeconfig := func(name string) string { return filepath.Join(dataDir, "server/kubeconfig", name+".conf") }
	if err := poll(ctx, 2*time.Minute, func() error {
		if !c.Server.Running() {
			return stop{errors.New("the server has ended")}
		}
		if c.Config == nil {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig("admin"))
			if err != nil {
				return err
			}
			config.Host, config.Dial, config.QPS = serverURL, c.server.DialContext, -1
			c.Config = config
		}
		return c.healthy(ctx)
	}); err != nil {
		return fmt.Errorf("waiting for the API server: %w", err)
	}
	var err error
	if c.Client, err = client.NewWithWatch(c.Config, client.Options{Scheme: scheme.New()}); err != nil {
		return err
	}
	c.Manager = c.process("manager", c.server, append([]string{"dray-manager", "--kubeconfig", kubeconfig("manager"), "--metrics-bind-address=127.0.0.1:8080", "--health-bind-address=127.0.0.1:8081"}, c.options.ManagerArgs...)...)
	c.Scheduler = c.process("scheduler", c.server, append([]string{"dray-scheduler", "--kubeconfig", kubeconfig("scheduler")}, c.options.SchedulerArgs...)...)
	if err := errors.Join(c.Manager.Start(), c.Scheduler.Start()); err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(dataDir, "server/token"))
	c.token = strings.TrimSpace(string(token))
	return err
}

func (c *Cluster) healthy(ctx context.Context) error {
	httpClient, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, serverURL+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz answers %s", response.Status)
	}
	return nil
}

// process describes a component: argv[0] is a binary of bin/, run inside a namespace.
func (c *Cluster) process(name string, namespace *Namespace, argv ...string) *Process {
	argv[0] = Binary(argv[0])
	return NewProcess(name, c.log(name), append([]string{"nsenter", "--net=" + namespace.Path()}, argv...)...)
}

func (c *Cluster) log(name string) string {
	return filepath.Join(c.Dir, "logs", strings.ReplaceAll(name, "/", "-")+".log")
}

// Binary is the path of a binary that `make build` made, or of DRAYAGE_BIN's folder where that is set.
func Binary(name string) string {
	if dir := os.Getenv("DRAYAGE_BIN"); dir != "" {
		return filepath.Join(dir, name)
	}
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../bin", name)
}

// Kubeconfig is the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string {
	return filepath.Join(c.Dir, "server/server/kubeconfig/admin.conf")
}

// Dray runs the command line against the cluster, in the control plane's namespace, and returns what it
// prints to standard output.
func (c *Cluster) Dray(ctx context.Context, args ...string) (string, error) {
	argv := append([]string{"nsenter", "--net=" + c.server.Path(), "env", "KUBECONFIG=" + c.Kubeconfig(), Binary("dray")}, args...)
	return run(ctx, argv...)
}

// ServerHTTPClient returns a client that dials from where the control plane's processes run.
func (c *Cluster) ServerHTTPClient() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: c.server.DialContext, DisableKeepAlives: true}}
}

// Kubectl runs the embedded kubectl against the cluster.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.Dray(ctx, append([]string{"kubectl"}, args...)...)
}

// Processes are all components, the control plane's first.
func (c *Cluster) Processes() []*Process {
	var processes []*Process
	for _, p := range []*Process{c.Server, c.Manager, c.Scheduler} {
		if p != nil {
			processes = append(processes, p)
		}
	}
	for _, node := range c.Nodes {
		processes = append(processes, node.Agent)
	}
	return processes
}

// Tails are the ends of every component's log, for the message of a failed spec.
func (c *Cluster) Tails(lines int) string {
	var b strings.Builder
	for _, p := range c.Processes() {
		fmt.Fprintf(&b, "--- %s (running: %t)\n%s\n", p.Name, p.Running(), p.Tail(lines))
	}
	return b.String()
}

// Close ends the cluster and removes everything that it made. It may be called on a cluster that is only
// partly there. The first errors matter: they name what could not be removed.
func (c *Cluster) Close() error {
	var errs []error
	for _, node := range c.Nodes {
		errs = append(errs, node.close())
	}
	for _, p := range []*Process{c.Scheduler, c.Manager, c.Server} {
		if p != nil {
			errs = append(errs, p.Kill())
		}
	}
	if c.registry != nil {
		errs = append(errs, c.registry.Close())
	}
	for _, namespace := range slices.Backward(c.namespace) {
		errs = append(errs, namespace.Delete())
	}
	if c.Dir != "" && os.Getenv("DRAYAGE_KEEP") == "" {
		errs = append(errs, os.RemoveAll(c.Dir))
	}
	return errors.Join(errs...)
}

// stop ends a poll at once.
type stop struct{ error }

func (s stop) Unwrap() error { return s.error }

// poll calls f until it succeeds, at most for the given time.
func poll(ctx context.Context, patience time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := f()
		var final stop
		if err == nil || errors.As(err, &final) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (gave up after %s)", err, patience)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
