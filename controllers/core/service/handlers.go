package service

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/controllers/core/claims"
)

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// claimHandler starts a pass when a claim is gone: of its owner, which may still need it, and of the
// services that may have waited for it.
func (r *reconciler) claimHandler() handler.EventHandler {
	return handler.Funcs{
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			owner := e.Object.(*dnetworkingv1alpha1.Allocation).Spec.Owner
			if owner.Kind == claims.Service {
				q.Add(ctrl.Request{NamespacedName: types.NamespacedName{Namespace: owner.Namespace, Name: owner.Name}})
			}
			r.enqueue(ctx, q, func(service *dcorev1.Service) bool { return stalled(&service.Status) != "" })
		},
	}
}

// nodeHandler starts a pass of every load balancer when the address at which a node serves them changes.
func (r *reconciler) nodeHandler() handler.EventHandler {
	changed := func(ctx context.Context, before, after string, q queue) {
		if before != after {
			r.enqueue(ctx, q, func(service *dcorev1.Service) bool {
				return service.Spec.Type == corev1.ServiceTypeLoadBalancer
			})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			changed(ctx, "", balances(e.Object.(*dcorev1.Node)), q)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			changed(ctx, balances(e.ObjectOld.(*dcorev1.Node)), balances(e.ObjectNew.(*dcorev1.Node)), q)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			changed(ctx, balances(e.Object.(*dcorev1.Node)), "", q)
		},
	}
}

func (r *reconciler) enqueue(ctx context.Context, q queue, concerned func(*dcorev1.Service) bool) {
	var services dcorev1.ServiceList
	if err := r.client.List(ctx, &services, client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "listing services that a change concerns")
		return
	}
	for i := range services.Items {
		if concerned(&services.Items[i]) {
			q.Add(ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&services.Items[i])})
		}
	}
}
