package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/controllers/core/claims"
	"drayage.dev/controllers/core/podindex"
)

const (
	// defaultGrace is how long a node may be silent: four renewals of its lease; upstream's default.
	defaultGrace = 40 * time.Second
	workers      = 5
)

// Config is what the controller needs besides a manager.
type Config struct {
	// PodCIDR is the range that nodes get their shares from, such as "10.244.0.0/16".
	PodCIDR string
	// NodeCIDRBits is the size of a share; zero means 24, for IPv6 64.
	NodeCIDRBits int
	// Grace is how long a node's lease may go without renewal; zero means 40 seconds.
	Grace time.Duration
}

// reconciler brings one Node, and its pods where it is lost, up to date per call.
type reconciler struct {
	client     client.Client
	live       client.Reader
	claims     *claims.Claims
	recorder   record.EventRecorder
	clock      clock.PassiveClock
	podRange   podRange
	heartbeats *heartbeats
	firstSeen  *firstSeen
	throttle   *throttle
}

// Add adds the controller to mgr. The cache of mgr must index claims with claims.Index and pods with
// podindex.Add.
func Add(mgr ctrl.Manager, cfg Config) error {
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	r := &reconciler{
		client: mgr.GetClient(),
		live:   mgr.GetAPIReader(),
		claims: &claims.Claims{Client: mgr.GetClient(), Live: mgr.GetAPIReader()},
		//nolint:staticcheck // One recorder for all controllers.
		recorder:  mgr.GetEventRecorderFor("node-controller"),
		clock:     clock.RealClock{},
		firstSeen: newFirstSeen(),
		throttle:  newThrottle(),
	}
	r.heartbeats = newHeartbeats(r.clock, cfg.Grace)
	var err error
	if r.podRange, err = newPodRange(cfg.PodCIDR, cfg.NodeCIDRBits); err != nil {
		return fmt.Errorf("adding the Node controller: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("node").
		Watches(&dcorev1.Node{}, r.nodeHandler()).
		Watches(&coordinationv1.Lease{}, r.leaseHandler()).
		Watches(&dcorev1.Pod{}, r.podHandler()).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("adding the Node controller: %w", err)
	}
	if err := mgr.Add(manager.RunnableFunc(r.keepContact)); err != nil {
		return fmt.Errorf("adding the Node controller: %w", err)
	}
	return nil
}

// keepContact asks the API now and then, so that silence of nodes and silence of the API can be told
// apart.
func (r *reconciler) keepContact(ctx context.Context) error {
	interval := r.heartbeats.patience() / 2
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	namespace := &corev1.Namespace{}
	for {
		call, cancel := context.WithTimeout(ctx, interval)
		err := r.live.Get(call, client.ObjectKey{Name: dcorev1.NodeLeaseNamespace}, namespace)
		cancel()
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			r.heartbeats.reached()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Reconcile brings one Node up to date.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	node := &dcorev1.Node{}
	if err := r.client.Get(ctx, request.NamespacedName, node); err != nil {
		if apierrors.IsNotFound(err) {
			r.heartbeats.forget(request.Name)
			r.firstSeen.forget(request.Name)
			err = r.claims.DropGone(ctx, dnetworkingv1alpha1.AllocationOwner{Kind: claims.Node, Name: request.Name})
		}
		return ctrl.Result{}, err
	}
	if node.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	base := node.DeepCopy()
	silence, err := r.silence(ctx, node)
	if err != nil {
		return ctrl.Result{}, err
	}
	if silence <= 0 {
		markUnknown(&node.Status, r.clock.Now(), silent)
	}
	markStalled(&node.Status, r.clock.Now())
	if err := r.ensureCIDR(ctx, node); err != nil {
		return ctrl.Result{}, err
	}
	throttled, err := r.taint(ctx, node)
	if err != nil {
		return ctrl.Result{}, err
	}
	if err := r.patch(ctx, base, node); err != nil {
		return ctrl.Result{}, err
	}

	pods, err := podindex.OnNode(ctx, r.client, node.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	var failures []error
	if readiness(&node.Status) == corev1.ConditionUnknown {
		// An agent that is alive, ready or not, speaks for its pods itself.
		failures = append(failures, r.markNotReady(ctx, pods))
	}
	leaving, err := r.evict(ctx, node, pods)
	if err := errors.Join(append(failures, err)...); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: soonest(silence, leaving, throttled)}, nil
}

// silence returns how long a node may stay silent from now on. Before it says that a node is gone, it asks the API
// itself: after an outage the watch of Leases may come back later than the nodes.
func (r *reconciler) silence(ctx context.Context, node *dcorev1.Node) (time.Duration, error) {
	left := r.heartbeats.silence(node.Name)
	if left > 0 || readiness(&node.Status) == corev1.ConditionUnknown {
		return left, nil
	}
	lease := &coordinationv1.Lease{}
	err := r.live.Get(ctx, client.ObjectKey{Namespace: dcorev1.NodeLeaseNamespace, Name: node.Name}, lease)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("reading the lease of Node %s: %w", node.Name, err)
	}
	if err == nil && lease.Spec.RenewTime != nil {
		r.heartbeats.observe(node.Name, lease.Spec.RenewTime.Time)
	}
	return r.heartbeats.silence(node.Name), nil
}

// taint sets the taints that follow from the node's conditions. It returns when to look again at a node
// that is lost: whether it may be emptied depends on the others.
func (r *reconciler) taint(ctx context.Context, node *dcorev1.Node) (time.Duration, error) {
	now := r.clock.Now()
	evict, again := stopEviction, time.Duration(0)
	if ready := readiness(&node.Status); ready != corev1.ConditionTrue && ready != "" {
		disruption, err := r.disruption(ctx)
		if err != nil {
			return 0, err
		}
		again = wait.Jitter(throttledRetry, 0.5)
		switch {
		case disruption.total:
		case evicts(node):
			evict = keepEviction
		case r.throttle.allow(now, disruption):
			evict = startEviction
		default:
			evict = keepEviction
		}
	}
	if taints := taintsOf(node, evict, now); !sameTaints(taints, node.Spec.Taints) {
		node.Spec.Taints = taints
	}
	return again, nil
}

// patch writes the node's spec, then its status, where they differ from base. A conflict means that the
// cache is behind: the node is looked at again.
func (r *reconciler) patch(ctx context.Context, base, node *dcorev1.Node) error {
	status := node.Status.DeepCopy()
	if !equality.Semantic.DeepEqual(base.Spec, node.Spec) {
		patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
		if err := r.client.Patch(ctx, node, patch); err != nil {
			return fmt.Errorf("patching Node %s: %w", node.Name, err)
		}
	}
	base = node.DeepCopy()
	base.Status = *base.Status.DeepCopy()
	was := readiness(&base.Status)
	node.Status = *status
	node.Status.ObservedGeneration = node.Generation
	node.Status.Summary = summaryOf(node)
	if equality.Semantic.DeepEqual(base.Status, node.Status) {
		return nil
	}
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, node, patch); err != nil {
		return fmt.Errorf("patching the status of Node %s: %w", node.Name, err)
	}
	if is := readiness(&node.Status); is == corev1.ConditionUnknown && was != is {
		r.recorder.Eventf(node, corev1.EventTypeWarning, "NodeNotReady", "Node %s is not heard of: its agent has not renewed its lease for %s", node.Name, r.heartbeats.grace)
	}
	return nil
}

// soonest returns the least of the durations that are more than zero, or zero.
func soonest(durations ...time.Duration) time.Duration {
	var least time.Duration
	for _, d := range durations {
		if d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}
