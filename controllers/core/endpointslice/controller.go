package endpointslice

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/internal/upstream"
)

const (
	// ManagedBy is the value of the label endpointslice.kubernetes.io/managed-by on this controller's
	// slices.
	ManagedBy = "endpointslice-controller.drayage.dev"
	// maxEndpoints is how many endpoints a slice holds at most; upstream's default.
	maxEndpoints = 100
	// workers is how many services are worked on at once; each pass waits for a write or two.
	workers = 10
	// lookAgain is when a pass is tried again that found the cache behind its own last write.
	lookAgain = 5 * time.Millisecond
)

// reconciler brings the slices of one Service up to date per call.
type reconciler struct {
	client   client.Client
	slices   *endpointslice.Reconciler
	written  *endpointsliceutil.EndpointSliceTracker
	triggers *endpointsliceutil.TriggerTimeTracker
}

// Add adds the controller to mgr.
func Add(mgr ctrl.Manager) error {
	r := newReconciler(mgr.GetClient())
	if err := addIndexes(context.Background(), mgr.GetFieldIndexer()); err != nil {
		return err
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("endpointslice").
		For(&dcorev1.Service{}).
		Watches(&dcorev1.Pod{}, r.podHandler()).
		Watches(&ddiscoveryv1.EndpointSlice{}, r.sliceHandler()).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("adding the EndpointSlice controller: %w", err)
	}
	return nil
}

func newReconciler(c client.Client) *reconciler {
	r := &reconciler{
		client:   c,
		written:  endpointsliceutil.NewEndpointSliceTracker(),
		triggers: endpointsliceutil.NewTriggerTimeTracker(),
	}
	// Events are of topology hints only, which are not made here.
	r.slices = endpointslice.NewReconciler(redirected{client: c}, nodes{c}, maxEndpoints, r.written, nil, nil, ManagedBy)
	return r
}

// Reconcile brings the slices of one Service up to date. When the service goes, the garbage collector
// takes them.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	service := &dcorev1.Service{}
	if err := r.client.Get(ctx, request.NamespacedName, service); err != nil {
		if apierrors.IsNotFound(err) {
			r.triggers.DeleteService(request.Namespace, request.Name)
			r.slices.DeleteService(request.Namespace, request.Name)
			r.written.DeleteService(request.Namespace, request.Name)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if service.Spec.Selector == nil || service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.ClusterIP == "" {
		// Without an address yet, slices would be labelled as a headless service's; it comes soon.
		return ctrl.Result{}, nil
	}
	pods, err := r.podsOf(ctx, service)
	if err != nil {
		return ctrl.Result{}, err
	}
	slices, err := r.slicesOf(ctx, service)
	if err != nil {
		return ctrl.Result{}, err
	}
	wanted := upstream.Service(service)
	if r.written.StaleSlices(wanted, slices) {
		return ctrl.Result{RequeueAfter: lookAgain}, nil
	}
	since := r.triggers.ComputeEndpointLastChangeTriggerTime(service.Namespace, wanted, pods)
	err = r.slices.Reconcile(log.FromContext(ctx), wanted, pods, slices, since)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("reconciling the endpoints of Service %s: %w", request.NamespacedName, err)
	}
	return ctrl.Result{}, nil
}

// podsOf lists the pods that a service selects. They are the cache's own.
func (r *reconciler) podsOf(ctx context.Context, service *dcorev1.Service) ([]*corev1.Pod, error) {
	var list dcorev1.PodList
	err := r.client.List(ctx, &list, client.InNamespace(service.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingFields{labelField: firstPair(service.Spec.Selector)},
		client.MatchingLabelsSelector{Selector: labels.ValidatedSetSelector(service.Spec.Selector)})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of Service %s: %w", client.ObjectKeyFromObject(service), err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = upstream.Pod(&list.Items[i])
	}
	return pods, nil
}

// slicesOf lists the slices of a service that this controller manages and that are there to stay.
func (r *reconciler) slicesOf(ctx context.Context, service *dcorev1.Service) ([]*discoveryv1.EndpointSlice, error) {
	var list ddiscoveryv1.EndpointSliceList
	err := r.client.List(ctx, &list, client.InNamespace(service.Namespace), client.MatchingFields{serviceField: service.Name})
	if err != nil {
		return nil, fmt.Errorf("listing the EndpointSlices of Service %s: %w", client.ObjectKeyFromObject(service), err)
	}
	var slices []*discoveryv1.EndpointSlice
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			slices = append(slices, toUpstream(&list.Items[i]))
		}
	}
	return slices, nil
}

// nodes lists Drayage's nodes as upstream's reconciler wants them: it only ever gets one by name.
type nodes struct{ client client.Client }

var _ corelisters.NodeLister = nodes{}

func (n nodes) List(labels.Selector) ([]*corev1.Node, error) {
	return nil, fmt.Errorf("listing nodes: not supported")
}

func (n nodes) Get(name string) (*corev1.Node, error) {
	node := &dcorev1.Node{}
	if err := n.client.Get(context.Background(), client.ObjectKey{Name: name}, node, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	return upstream.Node(node), nil
}
