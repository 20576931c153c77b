package deployment

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

// kind is how owner references name a Deployment.
var kind = dappsv1.GroupVersion.WithKind("Deployment")

// workers is how many Deployments are worked on at once. Upstream runs as few.
const workers = 5

// insurance is when a pass that waits for an event starts anyway.
const insurance = 2 * time.Second

// errCacheBehind says that the cache lacks something that this reconciler has written. An event is on its
// way that starts the next pass.
var errCacheBehind = errors.New("the cache is behind")

// reconciler rolls out one Deployment a step per call.
type reconciler struct {
	client   client.Client
	live     client.Reader
	recorder record.EventRecorder
	clock    clock.PassiveClock
	written  *ownWrites
}

// Add adds the controller to mgr. The cache of mgr must index pods and ReplicaSets with claim.Index.
func Add(mgr ctrl.Manager) error {
	r := &reconciler{
		client: mgr.GetClient(),
		live:   mgr.GetAPIReader(),
		//nolint:staticcheck // The same recorder as the ReplicaSet controller's, so that events read alike.
		recorder: mgr.GetEventRecorderFor("deployment-controller"),
		clock:    clock.RealClock{},
		written:  newOwnWrites(),
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("deployment").
		For(&dappsv1.Deployment{}).
		Owns(&dappsv1.ReplicaSet{}).
		Watches(&dappsv1.ReplicaSet{}, handler.EnqueueRequestsFromMapFunc(r.mayAdopt)).
		Watches(&dcorev1.Pod{}, r.podHandler()).
		WithOptions(ctrlcontroller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("adding the Deployment controller: %w", err)
	}
	return nil
}

// Reconcile takes one Deployment one step further.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	stored := &dappsv1.Deployment{}
	if err := r.client.Get(ctx, request.NamespacedName, stored); err != nil {
		if apierrors.IsNotFound(err) {
			r.written.forget(request.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	d := defaulted(stored)
	if selectsEverything(d) {
		return ctrl.Result{}, r.refuse(ctx, stored)
	}
	seen, err := r.observe(ctx, d)
	if err != nil {
		return outcome(0, err)
	}
	notePause(d)
	planner, rollout := plannerFor(seen)
	applyErr := r.apply(ctx, &seen, planner.Plan(seen, r.clock.Now()))
	if behind(applyErr) {
		return outcome(0, applyErr)
	}
	noteFound(seen)
	if err := r.patchRevision(ctx, stored, seen); err != nil {
		return outcome(0, err)
	}
	status := newStatus(ctx, seen, rollout)
	if err := r.patchStatus(ctx, stored, status); err != nil {
		return outcome(0, err)
	}
	if applyErr != nil {
		return outcome(0, applyErr)
	}
	next := nextLook(d, status.DeploymentStatus, r.clock.Now())
	return outcome(next, r.trimHistory(ctx, seen, status.DeploymentStatus))
}

// outcome turns a pass's error into what the queue does: nothing where an event is to come, or where the
// namespace is on its way out and takes the Deployment along; else a retry with backoff.
func outcome(next time.Duration, err error) (ctrl.Result, error) {
	switch {
	case behind(err):
		return ctrl.Result{RequeueAfter: insurance}, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return ctrl.Result{}, nil
	}
	return ctrl.Result{RequeueAfter: next}, err
}

func behind(err error) bool {
	return errors.Is(err, errCacheBehind) || apierrors.IsConflict(err)
}

// refuse answers a Deployment whose selector matches every pod of the namespace: none is touched.
func (r *reconciler) refuse(ctx context.Context, stored *dappsv1.Deployment) error {
	r.recorder.Event(stored, corev1.EventTypeWarning, dappsv1.DeploymentSelectingAll, selectsAll)
	status := *stored.Status.DeepCopy()
	status.ObservedGeneration = stored.Generation
	setRefused(&status.DeploymentStatus)
	return r.patchStatus(ctx, stored, status)
}

// patchRevision tells the Deployment the revision of its current template. It is part of the metadata,
// which a status patch cannot reach.
func (r *reconciler) patchRevision(ctx context.Context, stored *dappsv1.Deployment, seen Observed) error {
	if seen.New == nil || stored.DeletionTimestamp != nil {
		return nil
	}
	revision := seen.New.Annotations[dappsv1.RevisionAnnotation]
	if stored.Annotations[dappsv1.RevisionAnnotation] == revision {
		return nil
	}
	base := stored.DeepCopy()
	if stored.Annotations == nil {
		stored.Annotations = map[string]string{}
	}
	stored.Annotations[dappsv1.RevisionAnnotation] = revision
	err := r.client.Patch(ctx, stored, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("annotating Deployment %s: %w", client.ObjectKeyFromObject(base), err)
	}
	return nil
}

// patchStatus writes status when it says something new. The write carries the resource version, since
// conditions are a list that it replaces.
func (r *reconciler) patchStatus(ctx context.Context, stored *dappsv1.Deployment, status dappsv1.DeploymentStatus) error {
	if sameStatus(stored.Status, status) {
		return nil
	}
	base := stored.DeepCopy()
	stored.Status = status
	var err error
	if base.Status.ObservedGeneration == 0 {
		// A patch leaves out what is zero before and after, and a first status must have some of that.
		err = r.client.Status().Update(ctx, stored)
	} else {
		err = r.client.Status().Patch(ctx, stored, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("writing the status of Deployment %s: %w", client.ObjectKeyFromObject(base), err)
	}
	return nil
}

// nextLook is when a rollout that shows no progress is to be judged again, or zero for never.
func nextLook(d *appsv1.Deployment, status appsv1.DeploymentStatus, now time.Time) time.Duration {
	deadline, waiting := progressDeadline(d, status)
	if !waiting {
		return 0
	}
	// Zero would mean never, and at the deadline itself it has not passed yet.
	return max(0, deadline.Sub(now)) + 10*time.Millisecond
}
