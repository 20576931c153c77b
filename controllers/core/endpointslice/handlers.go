package endpointslice

import (
	"context"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	endpointsliceutil "k8s.io/endpointslice/util"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/internal/upstream"
)

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// podHandler starts a pass of every service that selects a pod whose endpoint changes, or did so before
// its labels changed.
func (r *reconciler) podHandler() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			r.enqueueSelecting(ctx, q, e.Object.GetNamespace(), e.Object.GetLabels())
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			old, pod := upstream.Pod(e.ObjectOld.(*dcorev1.Pod)), upstream.Pod(e.ObjectNew.(*dcorev1.Pod))
			changed := endpointsliceutil.GetPodUpdateProjectionKey(old, pod)
			if endpointsliceutil.ShouldPodBeInEndpoints(old, true) != endpointsliceutil.ShouldPodBeInEndpoints(pod, true) {
				// Upstream's key overlooks a pod that ends without ever having been ready.
				r.enqueueSelecting(ctx, q, pod.Namespace, old.Labels, pod.Labels)
				return
			}
			if changed == nil {
				return
			}
			sets := []map[string]string{changed.Labels}
			if changed.OldLabels != nil {
				sets = append(sets, changed.OldLabels)
			}
			r.enqueueSelecting(ctx, q, changed.Namespace, sets...)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.enqueueSelecting(ctx, q, e.Object.GetNamespace(), e.Object.GetLabels())
		},
	}
}

func (r *reconciler) enqueueSelecting(ctx context.Context, q queue, namespace string, podLabels ...map[string]string) {
	for _, set := range podLabels {
		services, err := r.servicesOf(ctx, namespace, set)
		if err != nil {
			log.FromContext(ctx).Error(err, "looking for the services of a pod")
			return
		}
		for _, service := range services {
			q.Add(ctrl.Request{NamespacedName: client.ObjectKeyFromObject(service)})
		}
	}
}

// sliceHandler starts a pass when somebody else has changed or deleted one of our slices, or has taken it
// over. What this controller wrote itself starts none.
func (r *reconciler) sliceHandler() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) {
			slice := seen(e.Object)
			if r.slices.ManagedByController(slice) && r.written.ShouldSync(slice) {
				enqueueService(q, slice)
			}
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			old, slice := seen(e.ObjectOld), seen(e.ObjectNew)
			if old.Labels[discoveryv1.LabelServiceName] != slice.Labels[discoveryv1.LabelServiceName] {
				enqueueService(q, old)
				enqueueService(q, slice)
				return
			}
			if r.slices.ManagedByChanged(old, slice) || r.slices.ManagedByController(slice) && r.written.ShouldSync(slice) {
				enqueueService(q, slice)
			}
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) {
			slice := seen(e.Object)
			if r.slices.ManagedByController(slice) && r.written.Has(slice) && !r.written.HandleDeletion(slice) {
				enqueueService(q, slice)
			}
		},
	}
}

// seen returns upstream's form of a slice of the cache, to look at only.
func seen(object client.Object) *discoveryv1.EndpointSlice {
	return upstream.EndpointSlice(object.(*ddiscoveryv1.EndpointSlice))
}

func enqueueService(q queue, slice *discoveryv1.EndpointSlice) {
	if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
		q.Add(ctrl.Request{NamespacedName: types.NamespacedName{Namespace: slice.Namespace, Name: name}})
	}
}
