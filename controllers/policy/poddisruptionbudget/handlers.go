package poddisruptionbudget

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dpolicyv1 "drayage.dev/apis/policy/v1"
)

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// podHandler starts a pass for the budgets that cover a pod, or covered it before its labels changed.
func (r *reconciler) podHandler() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { r.enqueueFor(ctx, q, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			r.enqueueFor(ctx, q, e.ObjectOld, e.ObjectNew)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { r.enqueueFor(ctx, q, e.Object) },
	}
}

func (r *reconciler) enqueueFor(ctx context.Context, q queue, states ...client.Object) {
	var budgets dpolicyv1.PodDisruptionBudgetList
	if err := r.client.List(ctx, &budgets, client.InNamespace(states[0].GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "listing budgets for a pod", "pod", client.ObjectKeyFromObject(states[0]))
		return
	}
	for i := range budgets.Items {
		selector, err := metav1.LabelSelectorAsSelector(budgets.Items[i].Spec.Selector)
		if err != nil {
			continue
		}
		for _, pod := range states {
			if selector.Matches(labels.Set(pod.GetLabels())) {
				q.Add(ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&budgets.Items[i])})
				break
			}
		}
	}
}
