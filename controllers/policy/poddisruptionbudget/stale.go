package poddisruptionbudget

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	dcorev1 "drayage.dev/apis/core/v1"
)

// staleAfter is how long a pod may be marked for a disruption that does not come. Upstream's number.
const staleAfter = dcorev1.EvictionRequestPatience

// cleaner takes back the marks of pods that live on.
type cleaner struct {
	client client.Client
	clock  clock.PassiveClock
}

func addStale(mgr ctrl.Manager) error {
	c := &cleaner{client: mgr.GetClient(), clock: clock.RealClock{}}
	marked := predicate.NewPredicateFuncs(func(object client.Object) bool { return c.due(object.(*dcorev1.Pod)) != nil })
	err := ctrl.NewControllerManagedBy(mgr).
		Named("stale-disruption").
		For(&dcorev1.Pod{}).
		WithEventFilter(marked).
		Complete(c)
	if err != nil {
		return fmt.Errorf("adding the controller of stale disruption marks: %w", err)
	}
	return nil
}

// Reconcile looks at one pod.
func (c *cleaner) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	pod := &dcorev1.Pod{}
	if err := c.client.Get(ctx, request.NamespacedName, pod); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	stale := c.due(pod)
	if len(stale) == 0 {
		return ctrl.Result{}, nil
	}
	base := pod.DeepCopy()
	var next time.Duration
	changed := false
	for kind, wait := range stale {
		if wait > 0 {
			if next == 0 || wait < next {
				next = wait
			}
			continue
		}
		changed = podutil.UpdatePodCondition(&pod.Status.PodStatus, &corev1.PodCondition{
			Type: kind, Status: corev1.ConditionFalse,
			ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(&pod.Status.PodStatus, pod.Generation, kind),
		}) || changed
	}
	if !changed {
		return ctrl.Result{RequeueAfter: next}, nil
	}
	err := c.client.Status().Patch(ctx, pod, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return ctrl.Result{}, fmt.Errorf("taking back the disruption mark of pod %s: %w", request, err)
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// due returns the marks that pod carries, each with the time that is left until it is to be taken back.
// Marks by the node and marks of pods that have ended or are being deleted stay.
func (c *cleaner) due(pod *dcorev1.Pod) map[corev1.PodConditionType]time.Duration {
	if pod.DeletionTimestamp != nil || podutil.IsPodPhaseTerminal(pod.Status.Phase) {
		return nil
	}
	var marks map[corev1.PodConditionType]time.Duration
	for i := range pod.Status.Conditions {
		condition := &pod.Status.Conditions[i]
		since := condition.LastTransitionTime.Time
		switch {
		case condition.Status != corev1.ConditionTrue || condition.Reason == corev1.PodReasonTerminationByKubelet:
			continue
		case condition.Type == dcorev1.PodEvictionRequested:
			// Asked for again and again while it waits.
			since = slices.MaxFunc([]time.Time{since, condition.LastProbeTime.Time}, time.Time.Compare)
		case condition.Type != corev1.DisruptionTarget:
			continue
		}
		if marks == nil {
			marks = map[corev1.PodConditionType]time.Duration{}
		}
		marks[condition.Type] = max(staleAfter-c.clock.Since(since), 0)
	}
	return marks
}
