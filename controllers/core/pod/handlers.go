package pod

import (
	"context"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/core/podindex"
)

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// podHandler starts a pass of a pod that terminates, or that has a node which the cache does not know.
func (r *reconciler) podHandler() handler.EventHandler {
	look := func(ctx context.Context, object client.Object, q queue) {
		pod := object.(*dcorev1.Pod)
		if pod.DeletionTimestamp != nil || pod.Spec.NodeName != "" && !r.known(ctx, pod.Spec.NodeName) {
			enqueue(q, pod)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { look(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { look(ctx, e.ObjectNew, q) },
	}
}

// nodeHandler starts a pass of a node's pods when the node goes, is not ready any more, or is put out of
// service.
func (r *reconciler) nodeHandler() handler.EventHandler {
	look := func(ctx context.Context, node string, q queue) {
		pods, err := podindex.OnNode(ctx, r.client, node)
		if err != nil {
			log.FromContext(ctx).Error(err, "looking at the pods of a node")
			return
		}
		for i := range pods {
			enqueue(q, &pods[i])
		}
	}
	return handler.Funcs{
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			old, node := e.ObjectOld.(*dcorev1.Node), e.ObjectNew.(*dcorev1.Node)
			if !ready(node) && (ready(old) || len(old.Spec.Taints) != len(node.Spec.Taints)) {
				look(ctx, node.Name, q)
			}
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { look(ctx, e.Object.GetName(), q) },
	}
}

func (r *reconciler) known(ctx context.Context, node string) bool {
	return r.client.Get(ctx, client.ObjectKey{Name: node}, &dcorev1.Node{}, client.UnsafeDisableDeepCopy) == nil
}

func enqueue(q queue, pod *dcorev1.Pod) {
	q.Add(ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
}
