package deployment

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dappsv1 "drayage.dev/apis/apps/v1"
)

// mayAdopt names the Deployments that might adopt a ReplicaSet without a controller.
func (r *reconciler) mayAdopt(ctx context.Context, set client.Object) []ctrl.Request {
	if metav1.GetControllerOfNoCopy(set) != nil || len(set.GetLabels()) == 0 {
		return nil
	}
	var deployments dappsv1.DeploymentList
	if err := r.client.List(ctx, &deployments, client.InNamespace(set.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "listing Deployments for an orphan", "replicaSet", client.ObjectKeyFromObject(set))
		return nil
	}
	var requests []ctrl.Request
	for i := range deployments.Items {
		selector, err := metav1.LabelSelectorAsSelector(deployments.Items[i].Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(set.GetLabels())) {
			requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&deployments.Items[i])})
		}
	}
	return requests
}

// podHandler starts a pass when a pod of a Deployment that waits for old pods to end is gone.
func (r *reconciler) podHandler() handler.EventHandler {
	return handler.Funcs{DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[ctrl.Request]) {
		set := &dappsv1.ReplicaSet{}
		if !r.getController(ctx, e.Object, set) {
			return
		}
		d := &dappsv1.Deployment{}
		if r.getController(ctx, set, d) && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			q.Add(ctrl.Request{NamespacedName: client.ObjectKeyFromObject(d)})
		}
	}}
}

// getController reads the controller of object into controller, which must not be modified, and says
// whether the cache knows it.
func (r *reconciler) getController(ctx context.Context, object, controller client.Object) bool {
	reference := metav1.GetControllerOfNoCopy(object)
	if reference == nil || reference.APIVersion != dappsv1.GroupVersion.String() {
		return false
	}
	name := types.NamespacedName{Namespace: object.GetNamespace(), Name: reference.Name}
	err := r.client.Get(ctx, name, controller, client.UnsafeDisableDeepCopy)
	return err == nil && controller.GetUID() == reference.UID
}
