package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	dcorev1 "drayage.dev/apis/core/v1"
)

const (
	// defaultQuarantine and defaultThreshold are upstream's.
	defaultQuarantine = 40 * time.Second
	defaultThreshold  = 12500
	// interval is how often completed pods are counted.
	interval = 20 * time.Second
	workers  = 5
)

// Config is what the controller needs besides a manager.
type Config struct {
	// Quarantine is how long a node must be missing before its pods are collected; zero means 40 seconds.
	Quarantine time.Duration
	// CompletedPods is how many completed pods are kept; zero means 12500, less than zero any number.
	CompletedPods int
}

// reconciler looks at one pod per call.
type reconciler struct {
	client     client.Client
	live       client.Reader
	quarantine time.Duration
	completed  int
	missing    *missing
}

// Add adds the controller to mgr. The cache of mgr must index pods with podindex.Add.
func Add(mgr ctrl.Manager, cfg Config) error {
	r := &reconciler{
		client: mgr.GetClient(), live: mgr.GetAPIReader(),
		quarantine: cmp.Or(cfg.Quarantine, defaultQuarantine), completed: cmp.Or(cfg.CompletedPods, defaultThreshold),
	}
	r.missing = newMissing(clock.RealClock{}, r.quarantine)
	err := ctrl.NewControllerManagedBy(mgr).
		Named("pod-collector").
		Watches(&dcorev1.Pod{}, r.podHandler()).
		Watches(&dcorev1.Node{}, r.nodeHandler()).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("adding the collector of pods: %w", err)
	}
	if err := mgr.Add(manager.RunnableFunc(r.sweep)); err != nil {
		return fmt.Errorf("adding the collector of pods: %w", err)
	}
	return nil
}

// Reconcile looks at one pod.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	pod := &dcorev1.Pod{}
	if err := r.client.Get(ctx, request.NamespacedName, pod); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	again, err := r.collect(ctx, pod)
	if apierrors.IsConflict(err) {
		return ctrl.Result{}, nil // the event of the change starts the next pass
	}
	return ctrl.Result{RequeueAfter: again}, err
}

// sweep deletes completed pods beyond the bound, from time to time.
func (r *reconciler) sweep(ctx context.Context) error {
	if r.completed < 0 {
		return nil
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := r.removeCompleted(ctx); err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "removing completed pods, will try again", "after", interval)
		}
	}
}

func (r *reconciler) removeCompleted(ctx context.Context) error {
	var list dcorev1.PodList
	if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	excess := excessOf(list.Items, r.completed)
	var failures []error
	for _, pod := range excess {
		failures = append(failures, r.remove(ctx, pod))
	}
	if len(excess) > 0 {
		log.FromContext(ctx).Info("deleted completed pods beyond the bound", "pods", len(excess), "bound", r.completed)
	}
	return errors.Join(failures...)
}

// excessOf returns the completed pods beyond a bound: evicted ones first, then the oldest.
func excessOf(pods []dcorev1.Pod, bound int) []*dcorev1.Pod {
	var completed []*dcorev1.Pod
	for i := range pods {
		if pods[i].DeletionTimestamp == nil && podutil.IsPodPhaseTerminal(pods[i].Status.Phase) {
			completed = append(completed, &pods[i])
		}
	}
	if len(completed) <= bound {
		return nil
	}
	slices.SortFunc(completed, func(a, b *dcorev1.Pod) int {
		return cmp.Or(
			evictedFirst(a)-evictedFirst(b),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Name, b.Name))
	})
	return completed[:len(completed)-bound]
}

func evictedFirst(pod *dcorev1.Pod) int {
	if pod.Status.Reason == "Evicted" {
		return 0
	}
	return 1
}
