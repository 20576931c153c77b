package replicaset

import (
	"context"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
)

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// replicaSetHandler starts a pass for every change of a ReplicaSet. Expectations go by name, so those of
// a ReplicaSet whose name another one has taken are dropped here.
func (r *reconciler) replicaSetHandler() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { enqueue(q, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if e.ObjectOld.GetUID() != e.ObjectNew.GetUID() {
				r.expectations.DeleteExpectations(klog.FromContext(ctx), client.ObjectKeyFromObject(e.ObjectOld).String())
			}
			enqueue(q, e.ObjectNew)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.expectations.DeleteExpectations(klog.FromContext(ctx), client.ObjectKeyFromObject(e.Object).String())
			enqueue(q, e.Object)
		},
	}
}

// podHandler tells expectations what the cache has seen, and starts a pass for the ReplicaSets that a
// change of a pod concerns.
func (r *reconciler) podHandler() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			r.podAdded(ctx, e.Object.(*dcorev1.Pod), q)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			r.podChanged(ctx, e.ObjectOld.(*dcorev1.Pod), e.ObjectNew.(*dcorev1.Pod), q)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.podLeaving(ctx, e.Object.(*dcorev1.Pod), q)
		},
	}
}

func (r *reconciler) podAdded(ctx context.Context, pod *dcorev1.Pod, q queue) {
	if pod.DeletionTimestamp != nil {
		// After a restart a pod may show up already terminating: no creation is seen then.
		r.podLeaving(ctx, pod, q)
		return
	}
	if reference := metav1.GetControllerOfNoCopy(pod); reference != nil {
		if set := r.controllerOf(ctx, pod.Namespace, reference); set != nil {
			r.expectations.CreationObserved(klog.FromContext(ctx), client.ObjectKeyFromObject(set).String())
			enqueue(q, set)
		}
		return
	}
	r.enqueueMatching(ctx, pod, q)
}

func (r *reconciler) podChanged(ctx context.Context, old, pod *dcorev1.Pod, q queue) {
	if old.ResourceVersion == pod.ResourceVersion {
		return
	}
	if pod.DeletionTimestamp != nil {
		// Deletion counts from its request on: the replacement must not wait for the pod's end.
		r.podLeaving(ctx, pod, q)
		return
	}
	before, after := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(pod)
	moved := (before == nil) != (after == nil) || (before != nil && before.UID != after.UID)
	if moved && before != nil {
		if set := r.controllerOf(ctx, old.Namespace, before); set != nil {
			enqueue(q, set)
		}
	}
	if after != nil {
		if set := r.controllerOf(ctx, pod.Namespace, after); set != nil {
			enqueue(q, set)
		}
		return
	}
	if moved || !maps.Equal(old.Labels, pod.Labels) {
		r.enqueueMatching(ctx, pod, q)
	}
}

func (r *reconciler) podLeaving(ctx context.Context, pod *dcorev1.Pod, q queue) {
	reference := metav1.GetControllerOfNoCopy(pod)
	if reference == nil {
		return
	}
	if set := r.controllerOf(ctx, pod.Namespace, reference); set != nil {
		r.expectations.DeletionObserved(klog.FromContext(ctx),
			client.ObjectKeyFromObject(set).String(), controller.PodKey(upstream.Pod(pod)))
		enqueue(q, set)
	}
}

// controllerOf returns the ReplicaSet that reference means, or nil when it means none that the cache
// knows. The ReplicaSet is the cache's own.
func (r *reconciler) controllerOf(ctx context.Context, namespace string, reference *metav1.OwnerReference) *dappsv1.ReplicaSet {
	if reference.Kind != kind.Kind || reference.APIVersion != dappsv1.GroupVersion.String() {
		return nil
	}
	set := &dappsv1.ReplicaSet{}
	name := types.NamespacedName{Namespace: namespace, Name: reference.Name}
	if err := r.client.Get(ctx, name, set, client.UnsafeDisableDeepCopy); err != nil || set.UID != reference.UID {
		return nil
	}
	return set
}

// enqueueMatching starts a pass for each ReplicaSet that might adopt pod.
func (r *reconciler) enqueueMatching(ctx context.Context, pod *dcorev1.Pod, q queue) {
	if len(pod.Labels) == 0 {
		return
	}
	var sets dappsv1.ReplicaSetList
	if err := r.client.List(ctx, &sets, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "listing ReplicaSets for an orphan", "pod", client.ObjectKeyFromObject(pod))
		return
	}
	for i := range sets.Items {
		selector, err := metav1.LabelSelectorAsSelector(sets.Items[i].Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			enqueue(q, &sets.Items[i])
		}
	}
}

func enqueue(q queue, object client.Object) {
	q.Add(ctrl.Request{NamespacedName: client.ObjectKeyFromObject(object)})
}
