package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/log"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"drayage.dev/controllers"
	"drayage.dev/controllers/core"
	"drayage.dev/internal/diagnostics"
	"drayage.dev/internal/scheme"
)

// off is the address that switches a listener off.
const off = "0"

// shutdownTimeout bounds how long a stop waits for the passes that are under way.
const shutdownTimeout = 10 * time.Second

// Config configures a manager.
type Config struct {
	// Kubeconfig is the path of the kubeconfig that leads to the API server. Empty means the address and
	// token that a pod finds inside its cluster.
	Kubeconfig string
	// RESTConfig leads to the API server instead of Kubeconfig when it is set. It is not modified.
	RESTConfig *rest.Config

	// LeaderElection makes the manager wait until no other one is at work. It saves double work and is
	// no fence: everything that must happen once is settled by the API server.
	LeaderElection bool
	// LeaderElectionNamespace is where the lease of the election lives.
	LeaderElectionNamespace string
	// Election is the pace of the election.
	Election Election

	// MetricsBindAddress is where metrics are served, such as ":8080"; "0" serves none.
	MetricsBindAddress string
	// HealthBindAddress is where /healthz and /readyz are served, such as ":8081"; "0" serves none.
	HealthBindAddress string
	// Diagnostics serves both, and profiles, over TLS where its SecureAddress is set.
	Diagnostics diagnostics.Config

	// Controllers is what the controllers themselves need.
	Controllers controllers.Config
	// Cluster is what this process serves beside them.
	Cluster Cluster
}

// DefaultConfig returns the configuration that the command starts from: no election, no listeners, and the
// default address ranges.
func DefaultConfig() Config {
	return Config{
		LeaderElectionNamespace: "drayage-system",
		Election:                Election{LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second},
		Cluster:                 Cluster{Namespace: "drayage-system"},
		MetricsBindAddress:      off,
		HealthBindAddress:       off,
		Controllers: controllers.Config{
			ServiceCIDR: "10.96.0.0/16",
			PodCIDR:     "10.244.0.0/16",

			NodeGrace:      40 * time.Second,
			NodeQuarantine: 40 * time.Second,
		},
	}
}

// Run runs the controllers until ctx ends or one of them cannot go on. A stop in good order returns nil.
// It needs the CRDs to be served.
func Run(ctx context.Context, cfg Config) error {
	restConfig, err := cfg.restConfig()
	if err != nil {
		return err
	}
	log.SetLogger(klog.Background())
	if err := cfg.Election.validate(); err != nil {
		return err
	}
	if cfg.Cluster.serves() {
		cfg.Controllers.Hosted = true
		client, err := kubernetes.NewForConfig(restConfig)
		if err != nil {
			return err
		}
		if err := checkRanges(ctx, client, cfg.Controllers.PodCIDR, cfg.Controllers.ServiceCIDR); err != nil {
			return fmt.Errorf("checking the network's ranges: %w", err)
		}
	}
	keeper, err := prepareCluster(ctx, &cfg, restConfig)
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(restConfig, cfg.options(ctx))
	if err != nil {
		return fmt.Errorf("making the manager: %w", err)
	}
	if err := controllers.Add(mgr, cfg.Controllers); err != nil {
		return err
	}
	ready, err := addCluster(ctx, mgr, &cfg, restConfig, keeper)
	if err != nil {
		return err
	}
	show := cfg.Diagnostics
	show.HealthAddress, show.MetricsAddress, show.RESTConfig = cfg.HealthBindAddress, cfg.MetricsBindAddress, restConfig
	show.Ready, show.Log = ready, klog.FromContext(ctx)
	// Beside the manager, not a part of it: it answers while the manager waits for the API server.
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return diagnostics.Run(ctx, show) })
	group.Go(func() error {
		if err := mgr.Start(ctx); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("running the controllers: %w", err)
		}
		return errEnded
	})
	if err := group.Wait(); !errors.Is(err, errEnded) {
		return err
	}
	return nil
}

// errEnded ends what runs beside a manager that has ended in good order.
var errEnded = errors.New("the manager has ended")

// options are the manager's: a cache without managed fields, which no controller reads, and without
// periodic resyncs, which would repeat every pass for nothing.
func (c Config) options(ctx context.Context) ctrl.Options {
	return ctrl.Options{
		Scheme:   scheme.New(),
		Logger:   klog.FromContext(ctx),
		NewCache: newCache(ctx),
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject:         core.CacheByObject(),
			SyncPeriod:       ptr.To[time.Duration](0),
		},
		Metrics:                       metricsserver.Options{BindAddress: off},
		HealthProbeBindAddress:        off,
		LeaderElection:                c.LeaderElection,
		LeaderElectionID:              "drayage-manager",
		LeaderElectionNamespace:       c.LeaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &c.Election.LeaseDuration,
		RenewDeadline:                 &c.Election.RenewDeadline,
		RetryPeriod:                   &c.Election.RetryPeriod,
		WebhookServer:                 c.Cluster.webhookServer(),
		GracefulShutdownTimeout:       ptr.To(shutdownTimeout),
		Controller: config.Controller{
			// The all-in-one and the tests run several managers in one process.
			SkipNameValidation: ptr.To(true),
			// Who stands by has its caches full when its turn comes.
			EnableWarmup: ptr.To(c.LeaderElection),
			// controller-runtime's own queue (0.24) may lock up when it is shut down while it hands out an item
			// (kubernetes-sigs/controller-runtime#3538, mended in 0.25): a stop then takes all of shutdownTimeout.
			UsePriorityQueue: ptr.To(false),
		},
	}
}

// stoppableCache counts as synced when the manager is to stop. controller-runtime (0.24) waits for a first sync
// without a way out: a stop while the API server is away would never end.
type stoppableCache struct {
	cache.Cache
	stop context.Context
}

func newCache(stop context.Context) cache.NewCacheFunc {
	return func(config *rest.Config, options cache.Options) (cache.Cache, error) {
		c, err := cache.New(config, options)
		return stoppableCache{Cache: c, stop: stop}, err
	}
}

// WaitForCacheSync waits until every informer has synced, or ctx or the manager ends.
func (c stoppableCache) WaitForCacheSync(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.stop, cancel)()
	return c.Cache.WaitForCacheSync(ctx) || c.stop.Err() != nil
}

// restConfig leads to the API server, without a limit of the client's own: the server's priority and
// fairness decides who waits.
func (c Config) restConfig() (*rest.Config, error) {
	restConfig := c.RESTConfig
	if restConfig == nil {
		loaded, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("reading the kubeconfig %q: %w", c.Kubeconfig, err)
		}
		restConfig = loaded
	}
	restConfig = rest.CopyConfig(restConfig)
	restConfig.QPS, restConfig.Burst = -1, -1
	if restConfig.UserAgent == "" {
		restConfig.UserAgent = "dray-manager"
	}
	return restConfig, nil
}
