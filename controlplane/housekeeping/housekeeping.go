package housekeeping

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/bootstrap"
	"k8s.io/kubernetes/pkg/controller/certificates/cleaner"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/namespace"
	"k8s.io/kubernetes/pkg/controller/serviceaccount"

	"drayage.dev/controlplane/quota"
)

const (
	// kindsPeriod is how soon the garbage collector follows a new kind.
	kindsPeriod = 5 * time.Second

	// resync is how often everything is looked at again though nothing changed.
	resync = 10 * time.Minute

	collectorWorkers = 20
	workers          = 5

	leaseName = "drayage-controlplane"
)

// Config is what the controllers need.
type Config struct {
	// Client reaches the API server with all rights.
	Client *rest.Config
	// RootCA is the PEM certificate that every namespace is told.
	RootCA []byte
	// Identity is this server's name towards others that share its storage; a restart keeps it. Empty
	// where there are no others.
	Identity string
	// More are further controllers to run with these, on the same turn.
	More []func(context.Context) error
}

// Run runs the controllers until the context ends, whenever it is this server's turn.
func Run(ctx context.Context, config Config) error {
	config.Client = rest.CopyConfig(config.Client)
	config.Client.QPS = -1 // the API server's priority and fairness bounds them
	if config.Identity == "" {
		return run(ctx, config)
	}
	client, err := kubernetes.NewForConfig(config.Client)
	if err != nil {
		return err
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: leaseName},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: config.Identity},
	}
	for ctx.Err() == nil {
		if err := runTurn(ctx, lock, config); err != nil {
			return err
		}
	}
	return nil
}

// runTurn waits for this server's turn and returns when it is over and everything has ended.
func runTurn(ctx context.Context, lock resourcelock.Interface, config Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	turns := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            lock,
		LeaseDuration:   15 * time.Second,
		RenewDeadline:   10 * time.Second,
		RetryPeriod:     2 * time.Second,
		ReleaseOnCancel: true,
		Name:            leaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(turn context.Context) { turns <- turn },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}
	var elections sync.WaitGroup
	elections.Go(func() {
		defer cancel() // the turn is over, or the context is
		elector.Run(ctx)
	})
	defer elections.Wait()
	defer cancel()
	select {
	case turn := <-turns:
		return run(turn, config)
	case <-ctx.Done():
		return nil
	}
}

// run runs all controllers until the context ends.
func run(ctx context.Context, config Config) error {
	client, err := kubernetes.NewForConfig(config.Client)
	if err != nil {
		return err
	}
	objects, err := metadata.NewForConfig(config.Client)
	if err != nil {
		return err
	}
	anything, err := dynamic.NewForConfig(config.Client)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, resync)
	loops, started, err := controllers(ctx, config, client, objects, anything, factory)
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	close(started)

	var all sync.WaitGroup
	for _, loop := range loops {
		all.Go(func() { loop(ctx) })
	}
	var mu sync.Mutex
	var errs []error
	for _, more := range config.More {
		all.Go(func() {
			if err := more(ctx); err != nil && ctx.Err() == nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	factory.Shutdown()
	return errors.Join(errs...)
}

// controllers makes every controller before the informers start. The garbage collector waits for the
// returned channel to be closed.
func controllers(ctx context.Context, config Config, client kubernetes.Interface, objects metadata.Interface, anything dynamic.Interface, factory informers.SharedInformerFactory) ([]func(context.Context), chan struct{}, error) {
	core, certificates := factory.Core().V1(), factory.Certificates().V1()
	started := make(chan struct{})

	// The collector compares what its own discovery client says now with what it knew; the mapper's
	// cache must not be that client's.
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	kinds, err := discovery.NewDiscoveryClientForConfig(config.Client)
	if err != nil {
		return nil, nil, err
	}
	shared := informerfactory.NewInformerFactory(factory, metadatainformer.NewSharedInformerFactory(objects, resync))
	collector, err := garbagecollector.NewGarbageCollector(ctx, client, objects, mapper, garbagecollector.DefaultIgnoredResources(), shared, started)
	if err != nil {
		return nil, nil, fmt.Errorf("making the garbage collector: %w", err)
	}
	namespaces := namespace.NewNamespaceController(ctx, client, objects, client.Discovery().ServerPreferredNamespacedResources, core.Namespaces(), resync, corev1.FinalizerKubernetes)
	accounts, err := serviceaccount.NewServiceAccountsController(klog.FromContext(ctx), core.ServiceAccounts(), core.Namespaces(), client, serviceaccount.DefaultServiceAccountsControllerOptions())
	if err != nil {
		return nil, nil, fmt.Errorf("making the service account controller: %w", err)
	}
	roots, err := rootcacertpublisher.NewPublisher(core.ConfigMaps(), core.Namespaces(), client, config.RootCA)
	if err != nil {
		return nil, nil, fmt.Errorf("making the root certificate publisher: %w", err)
	}
	tokens, err := bootstrap.NewTokenCleaner(client, core.Secrets(), bootstrap.DefaultTokenCleanerOptions())
	if err != nil {
		return nil, nil, fmt.Errorf("making the token cleaner: %w", err)
	}
	requests := cleaner.NewCSRCleanerController(client.CertificatesV1().CertificateSigningRequests(), certificates.CertificateSigningRequests())

	quotas, err := quota.NewController(ctx, quota.Config{
		Client: client, Dynamic: anything, Quotas: factory, Objects: shared, Started: started, Resync: resync,
	})
	if err != nil {
		return nil, nil, err
	}

	return append(quotas, []func(context.Context){
		func(ctx context.Context) { collector.Run(ctx, collectorWorkers, kindsPeriod) },
		func(ctx context.Context) { collector.Sync(ctx, kinds, kindsPeriod) },
		func(ctx context.Context) { namespaces.Run(ctx, workers) },
		func(ctx context.Context) { accounts.Run(ctx, workers) },
		func(ctx context.Context) { roots.Run(ctx, workers) },
		func(ctx context.Context) { tokens.Run(ctx) },
		func(ctx context.Context) { requests.Run(ctx, 1) },
	}...), started, nil
}
