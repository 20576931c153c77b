package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"drayage.dev/internal/diagnostics"
	"drayage.dev/internal/garbage"
	"drayage.dev/scheduler"
)

// leaseName is the Lease by which one of several schedulers leads.
const leaseName = "dray-scheduler"

// collecting is how close collections of a scheduler that places pods follow each other. It makes less garbage than a server,
// but marks all that it knows of the cluster each time.
const collecting = 10 * time.Second

// Config is everything that a scheduler process can be told.
type Config struct {
	// Kubeconfig is the file that reaches the API server. Empty: the pod's service account.
	Kubeconfig string
	// RESTConfig, when set, takes the place of Kubeconfig.
	RESTConfig *rest.Config
	// ConfigFile is an optional KubeSchedulerConfiguration: profiles, plugins, extenders.
	ConfigFile string
	// OneByOne turns the fast path off.
	OneByOne bool
	// AgentPatience is how long the agent of a pod's node may take to report the pod as scheduled before the scheduler does.
	// The scheduler's default when zero.
	AgentPatience time.Duration
	// LeaderElect lets one of several processes schedule and the others stand by.
	LeaderElect bool
	// LeaseNamespace is where the leader's Lease lives.
	LeaseNamespace string
	// LeaseDuration is how long the others wait for a leader that does not renew, RenewDeadline how long
	// a leader tries to, RetryPeriod the time between two tries. Upstream's when zero.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
	// ListenAddress serves /healthz, /livez, /readyz and /metrics over plain HTTP. Empty: not at all.
	ListenAddress string
	// Diagnostics serves the same, and profiles, over TLS where its SecureAddress is set.
	Diagnostics diagnostics.Config
	// Plugins are compiled-in plugins beside upstream's.
	Plugins []scheduler.Option
}

// NewCommand returns the dray-scheduler command. The plugins given are available to its configuration.
func NewCommand(plugins ...scheduler.Option) *cobra.Command {
	config := Config{Plugins: plugins}
	var logs diagnostics.Logging
	command := &cobra.Command{
		Use:   "dray-scheduler",
		Short: "Place Drayage's pods on nodes",
		Long: `Places Drayage's pods on nodes with kube-scheduler's plugins, weights and decisions.

An existing KubeSchedulerConfiguration works with --config: its profiles, plugins, extenders,
parallelism and backoffs are used. Its leaderElection and clientConnection are not: flags say that.`,
		Example: `  # On a bare machine
  dray-scheduler --kubeconfig /var/lib/drayage/server/kubeconfig/scheduler.conf

  # One of several, with profiles of one's own
  dray-scheduler --kubeconfig scheduler.conf --leader-elect --config scheduler.yaml`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			return logs.Run(command.Context(), func(ctx context.Context) error {
				garbage.Pace(ctx, collecting)
				return Run(ctx, config)
			})
		},
	}
	flags := command.Flags()
	flags.StringVar(&config.Kubeconfig, "kubeconfig", "", "kubeconfig file of the API server (default: the pod's service account)")
	flags.StringVar(&config.ConfigFile, "config", "", "KubeSchedulerConfiguration file (default: kube-scheduler's defaults)")
	flags.BoolVar(&config.OneByOne, "one-by-one", false, "evaluate nodes for every pod anew, without the fast path for alike pods: the same decisions, slowly")
	flags.DurationVar(&config.AgentPatience, "agent-patience", scheduler.DefaultAgentPatience, "how long the agent of a pod's node may take to report the pod as scheduled before the scheduler writes that, one more write per pod")
	flags.BoolVar(&config.LeaderElect, "leader-elect", false, "schedule only while holding the Lease "+leaseName+"; needed when several run")
	flags.StringVar(&config.LeaseNamespace, "leader-elect-namespace", "drayage-system", "namespace of the Lease")
	config.defaultElection()
	flags.DurationVar(&config.LeaseDuration, "leader-elect-lease-duration", config.LeaseDuration, "how long the others wait for a leader that does not renew its Lease")
	flags.DurationVar(&config.RenewDeadline, "leader-elect-renew-deadline", config.RenewDeadline, "how long a leader tries to renew its Lease before it ends")
	flags.DurationVar(&config.RetryPeriod, "leader-elect-retry-period", config.RetryPeriod, "time between two tries to get or renew the Lease")
	flags.StringVar(&config.ListenAddress, "listen-address", "127.0.0.1:10251", `address of health and metrics, plain HTTP ("" turns them off)`)
	config.Diagnostics.AddSecureFlags(flags)
	logs.AddFlags(flags)
	return command
}

// Run schedules until ctx ends; then it returns nil. A leader that loses its Lease returns an error, so
// that its process ends and starts afresh.
func Run(ctx context.Context, config Config) error {
	restConfig, err := config.rest()
	if err != nil {
		return err
	}
	schedulerConfig := scheduler.Config{RESTConfig: rest.AddUserAgent(restConfig, "dray-scheduler"), OneByOne: config.OneByOne, AgentPatience: config.AgentPatience}
	if config.ConfigFile != "" {
		if schedulerConfig.Configuration, err = scheduler.LoadConfiguration(config.ConfigFile); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := scheduler.New(ctx, schedulerConfig, config.Plugins...)
	if err != nil {
		return err
	}

	parts := []func() error{func() error { return s.Run(ctx) }}
	ready := s.Ready
	if config.LeaderElect {
		lead, err := newElection(schedulerConfig.RESTConfig, config, s.Run)
		if err != nil {
			return err
		}
		parts[0] = func() error { return lead.run(ctx) }
		// A process that stands by is well.
		ready = func() error {
			if !lead.elector.IsLeader() {
				return nil
			}
			return s.Ready()
		}
	}
	show := config.Diagnostics
	show.HealthAddress, show.MetricsAddress, show.RESTConfig = config.ListenAddress, config.ListenAddress, restConfig
	show.Ready, show.Log = func(context.Context) error { return ready() }, klog.Background()
	parts = append(parts, func() error { return untilDone(ctx, diagnostics.Run(ctx, show)) })
	failed := make(chan error, len(parts))
	for _, part := range parts {
		go func() { failed <- part() }()
	}
	var errs []error
	for range parts {
		// The first one to end, for whatever reason, ends the others.
		errs = append(errs, <-failed)
		cancel()
	}
	return errors.Join(errs...)
}

// untilDone is a part that has nothing more to do but goes on until ctx ends, unless it failed.
func untilDone(ctx context.Context, err error) error {
	if err == nil {
		<-ctx.Done()
	}
	return err
}

func (c Config) rest() (*rest.Config, error) {
	switch {
	case c.RESTConfig != nil:
		return rest.CopyConfig(c.RESTConfig), nil
	case c.Kubeconfig != "":
		config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("reading the kubeconfig %s: %w", c.Kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("no API server is configured: name a kubeconfig file with --kubeconfig")
	}
	return config, nil
}

// defaultElection fills in upstream's pace.
func (c *Config) defaultElection() {
	for _, field := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&c.LeaseDuration, 15 * time.Second}, {&c.RenewDeadline, 10 * time.Second}, {&c.RetryPeriod, 2 * time.Second}} {
		if *field.value == 0 {
			*field.value = field.fallback
		}
	}
}

// election runs work while this process holds the Lease.
type election struct {
	elector *leaderelection.LeaderElector
	work    func(context.Context) error
	// outcome carries what work returned, once it was called.
	outcome chan error
}

func newElection(restConfig *rest.Config, config Config, work func(context.Context) error) (*election, error) {
	config.defaultElection()
	namespace := config.LeaseNamespace
	client, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("building a client for the leader election: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("naming this process for the leader election: %w", err)
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, namespace, leaseName, nil, client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())})
	if err != nil {
		return nil, fmt.Errorf("building the Lease %s/%s: %w", namespace, leaseName, err)
	}
	e := &election{work: work, outcome: make(chan error, 1)}
	e.elector, err = leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: leaseName, ReleaseOnCancel: true,
		LeaseDuration: config.LeaseDuration, RenewDeadline: config.RenewDeadline, RetryPeriod: config.RetryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { e.outcome <- e.work(ctx) },
			OnStoppedLeading: func() { klog.InfoS("Stopped leading", "lease", namespace+"/"+leaseName) },
		},
	})
	if err != nil {
		return nil, fmt.Errorf("building the leader election: %w", err)
	}
	return e, nil
}

func (e *election) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		e.elector.Run(ctx)
	}()
	select {
	case err := <-e.outcome: // the work ended by itself or with ctx
		cancel()
		<-stopped
		return err
	case <-stopped:
		if ctx.Err() == nil {
			return fmt.Errorf("lost the Lease %s: another scheduler leads", leaseName)
		}
		return nil
	}
}
