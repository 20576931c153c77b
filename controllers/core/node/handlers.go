package node

import (
	"context"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	dcorev1 "drayage.dev/apis/core/v1"
)

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// leaseHandler notes heartbeats. They start no pass: each node's pass asks for the next one when the node
// would be missed.
func (r *reconciler) leaseHandler() handler.EventHandler {
	observe := func(object client.Object) {
		lease := object.(*coordinationv1.Lease)
		if lease.Namespace == dcorev1.NodeLeaseNamespace && lease.Spec.RenewTime != nil {
			r.heartbeats.observe(lease.Name, lease.Spec.RenewTime.Time)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ queue) { observe(e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ queue) { observe(e.ObjectNew) },
	}
}

// nodeHandler starts a pass for every change of a node. An agent that reports is alive, even if its Lease
// is still on the way.
func (r *reconciler) nodeHandler() handler.EventHandler {
	enqueue := func(q queue, object client.Object) {
		q.Add(ctrl.Request{NamespacedName: client.ObjectKeyFromObject(object)})
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { enqueue(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			before, after := readiness(&e.ObjectOld.(*dcorev1.Node).Status), readiness(&e.ObjectNew.(*dcorev1.Node).Status)
			if before != after && after != corev1.ConditionUnknown {
				r.heartbeats.reported(e.ObjectNew.GetName())
			}
			enqueue(q, e.ObjectNew)
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { enqueue(q, e.Object) },
	}
}

// podHandler starts a pass of a node in trouble when a pod comes to it, or bears it otherwise than before.
func (r *reconciler) podHandler() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			r.enqueueTroubled(ctx, q, e.Object.(*dcorev1.Pod).Spec.NodeName)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			old, pod := e.ObjectOld.(*dcorev1.Pod), e.ObjectNew.(*dcorev1.Pod)
			if old.Spec.NodeName != pod.Spec.NodeName || !equality.Semantic.DeepEqual(old.Spec.Tolerations, pod.Spec.Tolerations) {
				r.enqueueTroubled(ctx, q, pod.Spec.NodeName)
			}
		},
	}
}

func (r *reconciler) enqueueTroubled(ctx context.Context, q queue, name string) {
	if name == "" {
		return
	}
	node := &dcorev1.Node{}
	if err := r.client.Get(ctx, client.ObjectKey{Name: name}, node, client.UnsafeDisableDeepCopy); err != nil {
		return // what has no node is the pod collector's
	}
	troubled := readiness(&node.Status) != corev1.ConditionTrue ||
		slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute })
	if troubled {
		q.Add(ctrl.Request{NamespacedName: types.NamespacedName{Name: name}})
	}
}
