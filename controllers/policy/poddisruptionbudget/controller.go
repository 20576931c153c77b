package poddisruptionbudget

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	"drayage.dev/internal/upstream"
)

// retry is when a budget that could not be computed is looked at again: what was missing may come without an
// event of a pod or of the budget.
const retry = 10 * time.Second

// reconciler brings one budget's status up to date per call.
type reconciler struct {
	client   client.Client
	recorder record.EventRecorder
	clock    clock.PassiveClock
}

// Add adds the controllers of budgets and of stale marks to mgr. It is to be called once, before mgr starts.
func Add(mgr ctrl.Manager) error {
	r := &reconciler{
		client: mgr.GetClient(),
		//nolint:staticcheck // The newer recorder folds events of several pods into one that names one pod.
		recorder: mgr.GetEventRecorderFor("disruption-controller"),
		clock:    clock.RealClock{},
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("poddisruptionbudget").
		For(&dpolicyv1.PodDisruptionBudget{}).
		Watches(&dcorev1.Pod{}, r.podHandler()).
		Complete(r)
	if err != nil {
		return fmt.Errorf("adding the disruption controller: %w", err)
	}
	return addStale(mgr)
}

// Reconcile brings one budget up to date.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	found := &dpolicyv1.PodDisruptionBudget{}
	if err := r.client.Get(ctx, request.NamespacedName, found); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	budget := upstream.PodDisruptionBudget(found)
	status, again, err := r.observe(ctx, budget)
	if err != nil {
		// What cannot be computed allows nothing.
		status, again = failedStatus(budget, err), retry
	}
	return ctrl.Result{RequeueAfter: again}, r.write(ctx, found, status)
}

// observe computes the budget's status, and when it changes by itself; zero for never.
func (r *reconciler) observe(ctx context.Context, budget *policyv1.PodDisruptionBudget) (policyv1.PodDisruptionBudgetStatus, time.Duration, error) {
	pods, err := r.pods(ctx, budget)
	if err != nil {
		return policyv1.PodDisruptionBudgetStatus{}, 0, err
	}
	var scale int32
	if needsScale(&budget.Spec) {
		var unmanaged []string
		if scale, unmanaged, err = r.scale(ctx, pods); err != nil {
			return policyv1.PodDisruptionBudgetStatus{}, 0, err
		}
		if len(unmanaged) > 0 && budget.Status.ObservedGeneration != budget.Generation {
			r.recorder.Eventf(upstream.FromPodDisruptionBudget(budget), corev1.EventTypeWarning, "UnmanagedPods",
				"Nothing controls the pods %s, so they cannot be counted: give spec.minAvailable as a number to cover them",
				strings.Join(unmanaged, ", "))
		}
	}
	want, err := wantedBy(&budget.Spec, len(pods), scale)
	if err != nil {
		return policyv1.PodDisruptionBudgetStatus{}, 0, err
	}
	now := r.clock.Now()
	disrupted, overdue, next := stillDisrupted(budget.Status.DisruptedPods, pods, now)
	for _, pod := range overdue {
		r.recorder.Eventf(upstream.FromPod(pod), corev1.EventTypeWarning, "NotDeleted",
			"Pod was expected by PDB %s/%s to be deleted but it wasn't", budget.Namespace, budget.Name)
	}
	var again time.Duration
	if !next.IsZero() {
		// A moment later, so that the entry has run out by then.
		again = next.Sub(now) + time.Second
	}
	return newStatus(budget, want, countHealthy(pods, disrupted, now), disrupted), again, nil
}

// pods lists the pods that the budget covers. They are the cache's own.
func (r *reconciler) pods(ctx context.Context, budget *policyv1.PodDisruptionBudget) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("reading the selector: %w", err)
	}
	var list dcorev1.PodList
	err = r.client.List(ctx, &list, client.InNamespace(budget.Namespace),
		client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = upstream.Pod(&list.Items[i])
	}
	// In one order always: an error that names the first of them must not read anew with every pass.
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, nil
}

// write writes a status that says something new, at the version that was read: an eviction that was granted
// meanwhile is not undone but seen by the pass that its own write starts.
func (r *reconciler) write(ctx context.Context, budget *dpolicyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if sameStatus(budget.Status, status) {
		return nil
	}
	budget.Status = status
	err := r.client.Status().Update(ctx, budget)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing the status of PodDisruptionBudget %s: %w", client.ObjectKeyFromObject(budget), err)
	}
	return nil
}
