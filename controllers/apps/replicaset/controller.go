package replicaset

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

// kind is how owner references name a ReplicaSet.
var kind = dappsv1.GroupVersion.WithKind("ReplicaSet")

// workers is how many ReplicaSets are worked on at once: one that waits for a slow batch of creations
// must not hold up the others. Upstream runs as few.
const workers = 5

// Prepare completes a pod as admission would have, in place: defaults, priority, finalizer. Its warnings
// are for the log, its errors say why the API would refuse the pod.
type Prepare func(ctx context.Context, pod *corev1.Pod) (warnings []string, errs field.ErrorList)

// Config is what the controller needs besides a manager.
type Config struct {
	// Prepare is called on each pod before it is created. Nil leaves pods to the API's admission.
	Prepare Prepare
}

// reconciler brings one ReplicaSet's pods and status up to date per call.
type reconciler struct {
	client   client.Client
	live     client.Reader
	recorder record.EventRecorder
	prepare  Prepare
	clock    clock.PassiveClock

	// expectations hold a ReplicaSet back until the cache shows the pods that it has just created or
	// deleted, so that no pod is made twice. One entry per living ReplicaSet.
	expectations *controller.UIDTrackingControllerExpectations
}

// Add adds the controller to mgr. The cache of mgr must index pods and ReplicaSets with claim.Index.
func Add(mgr ctrl.Manager, cfg Config) error {
	r := &reconciler{
		client: mgr.GetClient(),
		live:   mgr.GetAPIReader(),
		//nolint:staticcheck // The newer recorder folds the events of a scale-up into one that names one pod.
		recorder:     mgr.GetEventRecorderFor("replicaset-controller"),
		prepare:      cfg.Prepare,
		clock:        clock.RealClock{},
		expectations: controller.NewUIDTrackingControllerExpectations(controller.NewControllerExpectations()),
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("replicaset").
		Watches(&dappsv1.ReplicaSet{}, r.replicaSetHandler()).
		Watches(&dcorev1.Pod{}, r.podHandler()).
		WithOptions(ctrlcontroller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("adding the ReplicaSet controller: %w", err)
	}
	return nil
}

// Reconcile brings one ReplicaSet up to date.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	set := &dappsv1.ReplicaSet{}
	if err := r.client.Get(ctx, request.NamespacedName, set); err != nil {
		if apierrors.IsNotFound(err) {
			r.expectations.DeleteExpectations(klog.FromContext(ctx), request.String())
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	// Asked before the pods are read: a pod that arrives in between must count as seen, not as missing.
	settled := r.expectations.SatisfiedExpectations(klog.FromContext(ctx), request.String())
	seen, err := r.observe(ctx, set)
	if err != nil {
		return ctrl.Result{}, err
	}
	var scaleErr error
	if settled && set.DeletionTimestamp.IsZero() {
		scaleErr = r.scale(ctx, seen)
	}
	now := r.clock.Now()
	if err := r.patchStatus(ctx, set, newStatus(seen, scaleErr, now)); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: r.nextLook(seen, settled, now)}, scaleErr
}

// patchStatus writes status when it says something new. A conflict means that the cache is behind, so an
// event is on its way that starts the next pass.
func (r *reconciler) patchStatus(ctx context.Context, set *dappsv1.ReplicaSet, status dappsv1.ReplicaSetStatus) error {
	if sameStatus(set.Status, status) {
		return nil
	}
	base := set.DeepCopy()
	set.Status = status
	var err error
	if base.Status.ObservedGeneration == 0 {
		// A patch leaves out what is zero before and after, and a first status must have some of that.
		err = r.client.Status().Update(ctx, set)
	} else {
		err = r.client.Status().Patch(ctx, set, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	}
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing the status of ReplicaSet %s: %w", client.ObjectKeyFromObject(set), err)
	}
	return nil
}

// nextLook is when the next pass is due without any event, or zero for never: when the next ready pod
// becomes available, and when expectations that a lost event left open run out.
func (r *reconciler) nextLook(seen observed, settled bool, now time.Time) time.Duration {
	var next time.Duration
	if !settled {
		next = controller.ExpectationsTimeout + time.Second
	}
	check := controller.FindMinNextPodAvailabilityCheck(seen.active, seen.set.Spec.MinReadySeconds, now, r.clock)
	if check != nil {
		// Zero would mean never.
		next = max(*check, time.Millisecond)
	}
	return next
}
