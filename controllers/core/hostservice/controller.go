package hostservice

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	dcorev1 "drayage.dev/apis/core/v1"
)

type reconciler struct {
	client   client.Client
	recorder record.EventRecorder
}

// Add adds the controller to mgr, whose API server must serve core Services.
func Add(mgr ctrl.Manager) error {
	r := &reconciler{
		client: mgr.GetClient(),
		//nolint:staticcheck // One recorder for all controllers.
		recorder: mgr.GetEventRecorderFor("service-controller"),
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("hostservice").
		For(&dcorev1.Service{}).
		WatchesMetadata(&corev1.Service{}, &handler.EnqueueRequestForObject{}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("adding the controller of hidden host Services: %w", err)
	}
	return nil
}

// Reconcile brings the condition of one Service up to date.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	service := &dcorev1.Service{}
	if err := r.client.Get(ctx, request.NamespacedName, service); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	hidden := &metav1.PartialObjectMetadata{}
	hidden.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Service"))
	err := r.client.Get(ctx, request.NamespacedName, hidden)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("reading the cluster's Service %s: %w", request, err)
	}
	base := service.DeepCopy()
	changed, hides := false, err == nil
	if hides {
		changed = meta.SetStatusCondition(&service.Status.Conditions, metav1.Condition{
			Type: dcorev1.ServiceHidesHostService, Status: metav1.ConditionTrue, Reason: dcorev1.ServiceSameName, ObservedGeneration: service.Generation,
			Message: fmt.Sprintf("the cluster has a Service %s, too: Drayage's pods find this one by that name, the cluster's pods the other; rename one of them if that is not meant", request),
		})
	} else {
		changed = meta.RemoveStatusCondition(&service.Status.Conditions, dcorev1.ServiceHidesHostService)
	}
	if !changed {
		return ctrl.Result{}, nil
	}
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, service, patch); err != nil {
		// The event of what the cache does not know yet starts the next pass.
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("patching the status of Service %s: %w", request, err)
	}
	if before := meta.FindStatusCondition(base.Status.Conditions, dcorev1.ServiceHidesHostService); hides && before == nil {
		condition := meta.FindStatusCondition(service.Status.Conditions, dcorev1.ServiceHidesHostService)
		r.recorder.Event(service, corev1.EventTypeWarning, condition.Reason, condition.Message)
	}
	return ctrl.Result{}, nil
}
