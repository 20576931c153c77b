package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
	"drayage.dev/network/health"
	"drayage.dev/network/spec"
	"drayage.dev/network/watch"
)

// Backend applies frontends to the kernel. package nftables' Table satisfies it.
type Backend interface {
	// Sync makes the kernel hold exactly the desired frontends and tells whether it had to change
	// anything; what is right already it leaves untouched.
	Sync(desired map[spec.Key]*spec.Frontend) (changed bool, err error)
	// Apply changes some frontends. After an error Sync is called.
	Apply(changes spec.Changes) error
	// Touched tells, cheaply, whether somebody else may have changed the kernel's state since.
	Touched() (bool, error)
	// Forget has connections that were begun to an endpoint that has left since, and that it has not
	// answered, begin anew with their clients' next packet. Where there are none it costs nothing.
	Forget() error
}

const (
	// coalesce is how long a change waits for others to share its transaction. A rolling update's
	// writes come further apart; a node's failure moves hundreds of slices at once.
	coalesce = 2 * time.Millisecond

	// forgetAfter is how long after a change connections to endpoints that have left are forgotten: an answer
	// may be on its way still. It is well below the time that a withdrawn pod goes on (500 ms), so that no
	// client repeats its first packet to a pod that is gone.
	forgetAfter = 150 * time.Millisecond

	// defaultStuckAfter is half of what upstream's kube-proxy allows itself.
	defaultStuckAfter = 30 * time.Second

	// defaultCheckInterval is how often the kernel is asked whether somebody else changed its rules.
	defaultCheckInterval = 10 * time.Second

	// Failed transactions are tried again after minRetry, then twice as long each time up to maxRetry.
	minRetry = 50 * time.Millisecond
	maxRetry = 5 * time.Second
)

// Config says whom the Proxy serves.
type Config struct {
	Node Node
	// RESTConfig is the node's way to the API.
	RESTConfig *rest.Config
	Backend    Backend
	// Pods tells of this node's pods, for their host ports; nil means that no pod has any.
	Pods PodSource
	// Checks is told what health check ports should answer, whenever that changes, after the kernel
	// was told; nil means that nobody answers. It must not block.
	Checks func(map[types.NamespacedName]health.Answer)
	// StuckAfter is how long writes to the kernel may fail until Checks is told that the node is stuck; 0
	// means 30 seconds.
	StuckAfter time.Duration
	// CheckInterval is how often changes by others are looked for; 0 means ten seconds.
	CheckInterval time.Duration
	// Log is told of take-over, repairs and errors; the zero value discards.
	Log logr.Logger
}

// PodSource is an informer of this node's *dcorev1.Pod.
type PodSource interface {
	AddEventHandler(handler cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
	RemoveEventHandler(cache.ResourceEventHandlerRegistration) error
}

// Proxy keeps the kernel's service rules in step with the API.
type Proxy struct {
	cfg  Config
	kick chan struct{}
	// synced is closed when the kernel has followed the API for the first time.
	synced chan struct{}
	// failing is since when writes to the kernel have failed, stuck whether Checks was told so; the loop's
	// alone.
	failing time.Time
	stuck   bool

	mu      sync.Mutex
	model   *Model
	told    bool
	waiters map[*waiter]struct{}
	// applied is the model's revision that the kernel has; news is closed, and replaced, when it rises.
	applied uint64
	news    chan struct{}
}

// waiter is one call of Await. present says that some slice had the pod; revision is set before done is
// closed.
type waiter struct {
	pod      types.UID
	present  bool
	done     chan struct{}
	revision uint64
}

// New returns a Proxy that does nothing until Run.
func New(cfg Config) *Proxy {
	if cfg.StuckAfter == 0 {
		cfg.StuckAfter = defaultStuckAfter
	}
	if cfg.CheckInterval == 0 {
		cfg.CheckInterval = defaultCheckInterval
	}
	return &Proxy{
		cfg: cfg, kick: make(chan struct{}, 1), synced: make(chan struct{}),
		model: NewModel(cfg.Node), waiters: map[*waiter]struct{}{}, news: make(chan struct{}),
	}
}

// Synced is closed when the kernel holds what the API has said at the start. Until then it holds what
// an earlier process left.
func (p *Proxy) Synced() <-chan struct{} { return p.synced }

// Await returns when every EndpointSlice shows the pod as terminating or not at all, and the kernel knows;
// else ctx's error. The revision is one of the EndpointSlices that says so: a node whose kernel has it
// sends the pod no new connections. It is 0 for a pod that is in no slice, which nobody has to hear of.
// The caller bounds the wait.
func (p *Proxy) Await(ctx context.Context, pod types.UID) (revision uint64, err error) {
	w := &waiter{pod: pod, done: make(chan struct{})}
	p.mu.Lock()
	w.present = p.model.Present(pod)
	p.waiters[w] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.waiters, w)
		p.mu.Unlock()
	}()
	p.wake()
	select {
	case <-w.done:
		return w.revision, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Applied returns the revision up to which the kernel has every change of EndpointSlices, and a channel
// that is closed when there is a higher one.
func (p *Proxy) Applied() (revision uint64, news <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied, p.news
}

// Frontends returns what the kernel should do for a service on this node, as far as the API has been
// heard; known is false before all of it has been, ever.
func (p *Proxy) Frontends(service types.NamespacedName) (frontends map[spec.Key]*spec.Frontend, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.model.Frontends(service), p.told
}

func (p *Proxy) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Run follows the API until ctx ends, and leaves the kernel's rules as they are then.
func (p *Proxy) Run(ctx context.Context) error {
	register()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	podsTold, stop, err := p.followPods()
	if err != nil {
		return err
	}
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- watch.Run(ctx, p.cfg.RESTConfig, (*feed)(p), func() {
			if !cache.WaitForCacheSync(ctx.Done(), podsTold) {
				return
			}
			p.mu.Lock()
			p.told = true
			p.mu.Unlock()
			p.wake()
		})
		cancel()
	}()
	p.loop(ctx)
	return <-ended
}

// followPods enters this node's pods until stop is called; told says that all that were there at the start
// are.
func (p *Proxy) followPods() (told cache.InformerSynced, stop func(), err error) {
	if p.cfg.Pods == nil {
		return func() bool { return true }, func() {}, nil
	}
	set := func(o any) {
		if pod, ok := o.(*dcorev1.Pod); ok {
			(*feed)(p).change(func(m *Model) { m.SetPod(upstream.Pod(pod)) })
		}
	}
	registration, err := p.cfg.Pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: set, UpdateFunc: func(_, o any) { set(o) },
		DeleteFunc: func(o any) {
			if missed, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = missed.Obj
			}
			if pod, ok := o.(*dcorev1.Pod); ok {
				(*feed)(p).change(func(m *Model) { m.DeletePod(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}) })
			}
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("following this node's pods: %w", err)
	}
	return registration.HasSynced, func() { _ = p.cfg.Pods.RemoveEventHandler(registration) }, nil
}

// loop is the one goroutine that writes to the kernel.
func (p *Proxy) loop(ctx context.Context) {
	check := time.NewTicker(p.cfg.CheckInterval)
	defer check.Stop()
	full, retry := true, time.Duration(0)
	var forget <-chan time.Time
	for {
		kick, again := p.kick, (<-chan time.Time)(nil)
		if retry > 0 {
			// Changes wait for the next attempt, which is a full one anyway.
			kick, again = nil, time.After(retry)
		}
		select {
		case <-ctx.Done():
			return
		case <-kick:
			select {
			case <-ctx.Done():
				return
			case <-time.After(coalesce):
			}
		case <-again:
		case <-forget:
			forget = nil
			if err := p.cfg.Backend.Forget(); err != nil {
				p.cfg.Log.Error(err, "Could not have unanswered connections begin anew, will try again with the next change")
			}
			continue
		case <-check.C:
			full = full || p.touched()
		}
		wrote, err := p.step(full)
		if wrote && forget == nil {
			forget = time.After(forgetAfter)
		}
		switch {
		case errors.Is(err, errNotTold):
		case err != nil:
			full, retry = true, min(max(minRetry, 2*retry), maxRetry)
			p.cfg.Log.Error(err, "Could not write the service rules, will compare all and try again", "after", retry)
		default:
			full, retry = false, 0
		}
	}
}

func (p *Proxy) touched() bool {
	touched, err := p.cfg.Backend.Touched()
	if err != nil {
		p.cfg.Log.Error(err, "Could not ask the kernel for its rules' generation")
	}
	return touched || err != nil
}

// errNotTold says that the API's state is not known yet: the rules that an earlier process left are
// better than half of those that should be.
var errNotTold = errors.New("the API has not been heard yet")

// step brings the kernel up to date and lets go those who waited for that. It tells whether it may have changed
// the kernel.
func (p *Proxy) step(full bool) (wrote bool, err error) {
	p.mu.Lock()
	if !p.told {
		p.mu.Unlock()
		return false, errNotTold
	}
	changes := p.model.Changes()
	checks, news := p.model.Checks()
	var desired map[spec.Key]*spec.Frontend
	if full {
		desired = p.model.Desired()
	}
	// Who is served by what is written now; the model may be further on when that is done.
	revision, released := p.model.Revision(), []*waiter{}
	for w := range p.waiters {
		if p.model.Usable(w.pod) {
			continue
		}
		if w.present || p.model.Present(w.pod) {
			w.revision = revision
		}
		released = append(released, w)
	}
	p.mu.Unlock()
	start := time.Now()
	err = p.write(full, desired, changes)
	wrote = full || len(changes) > 0
	if wrote {
		written(start, full, err)
	}
	p.tell(checks, news, err != nil)
	if err != nil {
		return wrote, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision > p.applied {
		p.applied = revision
		close(p.news)
		p.news = make(chan struct{})
	}
	for _, w := range released {
		if _, waits := p.waiters[w]; waits {
			delete(p.waiters, w)
			close(w.done)
		}
	}
	return wrote, nil
}

// tell has load balancers told what is new: endpoints, also while the kernel could not be told of them,
// and that the kernel could not be for long.
func (p *Proxy) tell(checks map[types.NamespacedName]health.Answer, news, failed bool) {
	switch {
	case !failed:
		p.failing = time.Time{}
	case p.failing.IsZero():
		p.failing = time.Now()
	}
	stuck := failed && time.Since(p.failing) >= p.cfg.StuckAfter
	if p.cfg.Checks == nil || !news && stuck == p.stuck {
		return
	}
	p.stuck = stuck
	for service, answer := range checks {
		answer.Stuck = stuck
		checks[service] = answer
	}
	p.cfg.Checks(checks)
}

func (p *Proxy) write(full bool, desired map[spec.Key]*spec.Frontend, changes spec.Changes) error {
	if !full {
		if len(changes) == 0 {
			return nil
		}
		return p.cfg.Backend.Apply(changes)
	}
	changed, err := p.cfg.Backend.Sync(desired)
	if err != nil {
		return err
	}
	select {
	case <-p.synced:
		if changed {
			p.cfg.Log.Info("Repaired the service rules", "frontends", len(desired))
		}
	default:
		close(p.synced)
		p.cfg.Log.Info("Took the service rules over", "frontends", len(desired), "changed", changed)
	}
	return nil
}

// feed is the Proxy as package watch's handler.
type feed Proxy

func (f *feed) change(fn func(*Model)) {
	f.mu.Lock()
	fn(f.model)
	f.mu.Unlock()
	(*Proxy)(f).wake()
}

// SetService enters a service.
func (f *feed) SetService(service *watch.Service) {
	f.change(func(m *Model) { m.SetService(service) })
}

// DeleteService removes a service.
func (f *feed) DeleteService(name types.NamespacedName) {
	f.change(func(m *Model) { m.DeleteService(name) })
}

// SetEndpointSlice enters a slice.
func (f *feed) SetEndpointSlice(slice *watch.EndpointSlice) {
	f.change(func(m *Model) { m.SetSlice(slice) })
}

// DeleteEndpointSlice removes a slice.
func (f *feed) DeleteEndpointSlice(name types.NamespacedName, resourceVersion string) {
	f.change(func(m *Model) { m.DeleteSlice(name, resourceVersion) })
}
