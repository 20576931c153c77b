package quota

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/resourcequota"
	"k8s.io/kubernetes/pkg/quota/v1/install"
)

const (
	// recountPeriod is how soon a quota is counted again though no object went: a pod that has ended gives
	// back what it had.
	recountPeriod = time.Minute
	// kindsPeriod is how soon objects of a new kind count.
	kindsPeriod = 30 * time.Second

	workers = 2
)

// Config is what the controller needs.
type Config struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Quotas is the factory of the informer of quotas, and Objects that of all kinds' objects, which should be
	// the garbage collector's. Started is closed once their informers have been started.
	Quotas  informers.SharedInformerFactory
	Objects informerfactory.InformerFactory
	Started <-chan struct{}
	// Resync is how often informers repeat what they know.
	Resync time.Duration
}

// NewController makes upstream's controller, before informers start, and returns what has to run then.
func NewController(ctx context.Context, config Config) ([]func(context.Context), error) {
	discover := config.Client.Discovery().ServerPreferredNamespacedResources
	quotas, err := resourcequota.NewController(ctx, &resourcequota.ControllerOptions{
		QuotaClient: config.Client.CoreV1(), ResourceQuotaInformer: config.Quotas.Core().V1().ResourceQuotas(),
		ResyncPeriod: controller.StaticResyncPeriodFunc(recountPeriod), ReplenishmentResyncPeriod: controller.StaticResyncPeriodFunc(config.Resync),
		Registry:      generic.NewRegistry(evaluators(config.Dynamic, generic.ListerFuncForResourceFunc(config.Objects.ForResource))),
		DiscoveryFunc: discover, IgnoredResourcesFunc: install.DefaultIgnoredResources,
		InformersStarted: config.Started, InformerFactory: config.Objects,
	})
	if err != nil {
		return nil, fmt.Errorf("making the quota controller: %w", err)
	}
	return []func(context.Context){
		func(ctx context.Context) { quotas.Run(ctx, workers) },
		func(ctx context.Context) { quotas.Sync(ctx, discover, kindsPeriod) },
	}, nil
}
