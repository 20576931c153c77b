package scheduler

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	kubescheduler "k8s.io/kubernetes/pkg/scheduler"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/scheduler/fastpath"
	"drayage.dev/scheduler/plugins/startup"
)

// stopPatience bounds the wait for informers at the end.
const stopPatience = time.Second

// Scheduler places pods. It is made by New and runs once.
type Scheduler struct {
	upstream    *kubescheduler.Scheduler
	informers   informers.SharedInformerFactory
	dynamic     dynamicinformer.DynamicSharedInformerFactory
	broadcaster events.EventBroadcaster
	scheduled   *scheduled
	synced      atomic.Bool
}

// Run places pods until ctx ends; then it returns nil. It returns an error when the configuration does
// not make a scheduler. An API server that cannot be reached is no error: Run waits for it.
func Run(ctx context.Context, config Config, options ...Option) error {
	s, err := New(ctx, config, options...)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// New builds a scheduler that stops with ctx. It makes no request yet.
func New(ctx context.Context, config Config, options ...Option) (*Scheduler, error) {
	register()
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	registry := frameworkruntime.Registry{startup.Name: startup.New}
	for _, option := range options {
		if err := option(registry); err != nil {
			return nil, fmt.Errorf("registering a plugin: %w", err)
		}
	}
	// What every API server has (events, namespaces) costs it half in its own encoding.
	native := rest.CopyConfig(config.RESTConfig)
	native.ContentType = runtime.ContentTypeProtobuf
	native.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	plain, err := kubernetes.NewForConfig(native)
	if err != nil {
		return nil, fmt.Errorf("building a client: %w", err)
	}
	dynamicClient, err := dynamic.NewForConfig(config.RESTConfig)
	if err != nil {
		return nil, fmt.Errorf("building a dynamic client: %w", err)
	}
	core, err := restFor(config.RESTConfig, dcorev1.GroupVersion)
	if err != nil {
		return nil, err
	}
	apps, err := restFor(config.RESTConfig, dappsv1.GroupVersion)
	if err != nil {
		return nil, err
	}
	policy, err := restFor(config.RESTConfig, dpolicyv1.GroupVersion)
	if err != nil {
		return nil, err
	}

	pods := &podWriter{core: core, pace: newPace(ctx)}
	redirected := &client{plain, pods}
	s := &Scheduler{
		informers:   newInformers(redirected, core, apps, policy),
		dynamic:     dynamicinformer.NewDynamicSharedInformerFactory(dynamicClient, 0),
		broadcaster: events.NewBroadcaster(newEventSink(&events.EventSinkImpl{Interface: plain.EventsV1()}, pods.pace)),
	}
	pods.cached = s.informers.Core().V1().Pods().Lister()
	pods.nodes = s.informers.Core().V1().Nodes().Lister()
	if err := s.host(ctx, redirected, config, registry); err != nil {
		return nil, err
	}
	s.upstream.SchedulePod = guard(s.upstream.SchedulePod)
	s.upstream.NextPod = pods.pace.before(s.upstream.NextPod)
	s.scheduled = newScheduled(pods, s.upstream.Profiles.HandlesSchedulerName, config.AgentPatience)
	if _, err := s.informers.Core().V1().Pods().Informer().AddEventHandler(s.scheduled.handler()); err != nil {
		return nil, fmt.Errorf("watching pods: %w", err)
	}
	return s, nil
}

func (s *Scheduler) host(ctx context.Context, client kubernetes.Interface, config Config, registry frameworkruntime.Registry) error {
	recorder := func(name string) events.EventRecorderLogger {
		return s.broadcaster.NewRecorder(clientgoscheme.Scheme, name)
	}
	c := config.Configuration
	var err error
	s.upstream, err = kubescheduler.New(ctx, client, s.informers, s.dynamic, recorder,
		kubescheduler.WithComponentConfigVersion(c.APIVersion),
		kubescheduler.WithKubeConfig(rest.CopyConfig(config.RESTConfig)),
		kubescheduler.WithProfiles(c.Profiles...),
		kubescheduler.WithPercentageOfNodesToScore(c.PercentageOfNodesToScore),
		kubescheduler.WithFrameworkOutOfTreeRegistry(registry),
		kubescheduler.WithPodInitialBackoffSeconds(c.PodInitialBackoffSeconds),
		kubescheduler.WithPodMaxBackoffSeconds(c.PodMaxBackoffSeconds),
		kubescheduler.WithExtenders(c.Extenders...),
		kubescheduler.WithParallelism(c.Parallelism),
	)
	if err != nil {
		return fmt.Errorf("building the scheduling framework: %w", err)
	}
	if !config.OneByOne {
		fastpath.Install(ctx, s.upstream, c.Profiles)
	}
	return nil
}

// Run places pods until ctx ends, then returns nil when everything that it started has ended, or is about
// to end by itself.
func (s *Scheduler) Run(ctx context.Context) error {
	var started sync.WaitGroup
	defer started.Wait()
	if err := s.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("starting to record events: %w", err)
	}
	defer s.broadcaster.Shutdown()
	s.informers.Start(ctx.Done())
	s.dynamic.Start(ctx.Done())
	defer s.stopInformers()
	started.Go(func() { s.scheduled.run(ctx) })

	s.informers.WaitForCacheSync(ctx.Done())
	s.dynamic.WaitForCacheSync(ctx.Done())
	if err := s.upstream.WaitForHandlersSync(ctx); err != nil {
		return nil // ctx ended first
	}
	s.synced.Store(true)
	s.upstream.Run(ctx)
	return nil
}

// stopInformers waits for the informers, whose context has ended. A reflector that is about to try an API
// server anew, one that is away, sits out its backoff of up to half a minute first; that is not worth a
// process's clean end.
func (s *Scheduler) stopInformers() {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.informers.Shutdown()
		s.dynamic.Shutdown()
	}()
	select {
	case <-stopped:
	case <-time.After(stopPatience):
	}
}

// Ready returns nil once the scheduler knows the cluster and places pods, else what it waits for.
func (s *Scheduler) Ready() error {
	if !s.synced.Load() {
		return fmt.Errorf("waiting for the first list of pods and nodes from the API server")
	}
	return nil
}
