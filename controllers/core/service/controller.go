package service

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/controllers/core/claims"
)

const (
	// systemNamespace is where Drayage keeps what is its own.
	systemNamespace = "drayage-system"
	// workers is how many services are worked on at once; each pass waits for a few writes.
	workers = 5
	// retryTaken is when a service that could not have what it asks for is looked at again, should the
	// event of the holder's end have been missed.
	retryTaken = time.Minute
)

// Config is what the controller needs besides a manager.
type Config struct {
	// ServiceCIDR is the range of cluster addresses, such as "10.96.0.0/16". The first address is the
	// API's, the tenth the DNS's.
	ServiceCIDR string
	// FirstNodePort and LastNodePort are the range of node ports; zero means 30000 and 32767.
	FirstNodePort, LastNodePort int32
}

// reconciler brings one Service up to date per call.
type reconciler struct {
	client    client.Client
	claims    *claims.Claims
	recorder  record.EventRecorder
	addresses addresses
	ports     ports
}

// Add adds the controller to mgr. The cache of mgr must index claims with claims.Index.
func Add(mgr ctrl.Manager, cfg Config) error {
	r := &reconciler{
		client: mgr.GetClient(),
		claims: &claims.Claims{Client: mgr.GetClient(), Live: mgr.GetAPIReader()},
		//nolint:staticcheck // One recorder for all controllers.
		recorder: mgr.GetEventRecorderFor("service-controller"),
		ports:    ports{first: cfg.FirstNodePort, last: cfg.LastNodePort},
	}
	if r.ports == (ports{}) {
		r.ports = ports{first: 30000, last: 32767}
	}
	var err error
	if r.addresses, err = newAddresses(cfg.ServiceCIDR); err != nil {
		return fmt.Errorf("adding the Service controller: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("service").
		For(&dcorev1.Service{}).
		Watches(&dnetworkingv1alpha1.Allocation{}, r.claimHandler()).
		Watches(&dcorev1.Node{}, r.nodeHandler()).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("adding the Service controller: %w", err)
	}
	return nil
}

// Reconcile brings one Service up to date: claims before the spec shows them, the spec before claims are
// given back, the status at the end.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	service := &dcorev1.Service{}
	if err := r.client.Get(ctx, request.NamespacedName, service); err != nil {
		if apierrors.IsNotFound(err) {
			err = r.claims.DropGone(ctx, dnetworkingv1alpha1.AllocationOwner{
				Kind: claims.Service, Namespace: request.Namespace, Name: request.Name,
			})
		}
		return ctrl.Result{}, err
	}
	if service.DeletionTimestamp != nil {
		return ctrl.Result{}, nil // its claims go when it is gone
	}
	base := service.DeepCopy()
	problems, err := r.allocate(ctx, service)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !equality.Semantic.DeepEqual(base.Spec, service.Spec) {
		patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
		if err := r.client.Patch(ctx, service, patch); err != nil {
			return ctrl.Result{}, unlessBehind("patching the addresses", service, err)
		}
	}
	if err := r.release(ctx, service); err != nil {
		return ctrl.Result{}, unlessBehind("giving back what is not needed", service, err)
	}
	if err := r.patchStatus(ctx, service, problems); err != nil {
		return ctrl.Result{}, unlessBehind("patching the status", service, err)
	}
	if len(problems) > 0 {
		return ctrl.Result{RequeueAfter: retryTaken}, nil
	}
	return ctrl.Result{}, nil
}

// unlessBehind drops an error that only says that the cache is behind the API: the event that brings it
// up to date starts the next pass.
func unlessBehind(doing string, service *dcorev1.Service, err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s of Service %s: %w", doing, client.ObjectKeyFromObject(service), err)
}

// patchStatus writes the status when it says something new, and tells of new problems.
func (r *reconciler) patchStatus(ctx context.Context, service *dcorev1.Service, problems []problem) error {
	var nodes dcorev1.NodeList
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("listing nodes: %w", err)
		}
	}
	status := newStatus(service, nodes.Items, problems)
	if equality.Semantic.DeepEqual(service.Status, status) {
		return nil
	}
	before, after := stalled(&service.Status), stalled(&status)
	base := service.DeepCopy()
	service.Status = status
	// Others may write conditions and, with a class of its own, the load balancer's addresses.
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, service, patch); err != nil {
		return err
	}
	if after != "" && after != before {
		for _, problem := range problems {
			r.recorder.Event(service, corev1.EventTypeWarning, problem.reason, problem.message)
		}
	}
	return nil
}

// stalled returns the message of a service that is stalled.
func stalled(status *dcorev1.ServiceStatus) string {
	if condition := meta.FindStatusCondition(status.Conditions, dcorev1.ServiceStalled); condition != nil && condition.Status == "True" {
		return condition.Message
	}
	return ""
}
