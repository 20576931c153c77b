package poddisruptionbudget

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	budgethelpers "k8s.io/component-helpers/apps/poddisruptionbudget"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	dpolicyv1 "drayage.dev/apis/policy/v1"
)

// deletionTimeout is how long a pod whose eviction was granted counts as gone without being deleted.
// Upstream's number.
const deletionTimeout = 2 * time.Minute

// wanted is how many pods a budget expects, and how many of them have to be healthy.
type wanted struct{ expected, healthy int32 }

// needsScale says whether the budget is a share of the pods that their controllers want, or counts from it.
func needsScale(spec *policyv1.PodDisruptionBudgetSpec) bool {
	return spec.MaxUnavailable != nil || spec.MinAvailable != nil && spec.MinAvailable.Type == intstr.String
}

// wantedBy returns what spec wants of pods pods, whose controllers want scale of them.
func wantedBy(spec *policyv1.PodDisruptionBudgetSpec, pods int, scale int32) (wanted, error) {
	switch {
	case spec.MaxUnavailable != nil:
		unavailable, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, int(scale), true)
		return wanted{expected: scale, healthy: max(scale-int32(unavailable), 0)}, err
	case spec.MinAvailable == nil:
		return wanted{}, nil
	case spec.MinAvailable.Type == intstr.Int:
		return wanted{expected: int32(pods), healthy: spec.MinAvailable.IntVal}, nil
	}
	available, err := intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, int(scale), true)
	return wanted{expected: scale, healthy: int32(available)}, err
}

// stillDisrupted returns the entries of disruptedPods that count still, the pods whose entries ran out, and
// when the next one does; zero for never.
func stillDisrupted(
	entries map[string]metav1.Time, pods []*corev1.Pod, now time.Time,
) (still map[string]metav1.Time, overdue []*corev1.Pod, next time.Time) {
	still = map[string]metav1.Time{}
	for _, pod := range pods {
		granted, found := entries[pod.Name]
		if !found || pod.DeletionTimestamp != nil {
			continue
		}
		until := granted.Add(deletionTimeout)
		if until.Before(now) {
			overdue = append(overdue, pod)
			continue
		}
		still[pod.Name] = granted
		if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	return still, overdue, next
}

// countHealthy counts the pods that serve and are not about to go.
func countHealthy(pods []*corev1.Pod, disrupted map[string]metav1.Time, now time.Time) (healthy int32) {
	for _, pod := range pods {
		granted, found := disrupted[pod.Name]
		leaves := pod.DeletionTimestamp != nil || found && granted.Add(deletionTimeout).After(now)
		if !leaves && podutil.IsPodReady(pod) {
			healthy++
		}
	}
	return healthy
}

// newStatus is the status that budget should carry.
func newStatus(budget *policyv1.PodDisruptionBudget, want wanted, healthy int32, disrupted map[string]metav1.Time) policyv1.PodDisruptionBudgetStatus {
	fresh := budget.DeepCopy()
	fresh.Status = policyv1.PodDisruptionBudgetStatus{
		CurrentHealthy: healthy, DesiredHealthy: want.healthy, ExpectedPods: want.expected,
		DisruptedPods: disrupted, ObservedGeneration: budget.Generation, Conditions: fresh.Status.Conditions,
	}
	// A budget without pods allows nothing: its first pods must not be evicted before it has seen them.
	if want.expected > 0 {
		fresh.Status.DisruptionsAllowed = max(healthy-want.healthy, 0)
	}
	budgethelpers.UpdateDisruptionAllowedCondition(fresh)
	setKstatus(&fresh.Status, nil)
	return fresh.Status
}

// failedStatus is the status of a budget that cannot be computed: it allows nothing.
func failedStatus(budget *policyv1.PodDisruptionBudget, cause error) policyv1.PodDisruptionBudgetStatus {
	status := budget.DeepCopy().Status
	// Upstream leaves the generation as it was; but then nobody could tell a budget that failed from a new one.
	status.DisruptionsAllowed, status.ObservedGeneration = 0, budget.Generation
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: cause.Error(), ObservedGeneration: status.ObservedGeneration,
	})
	setKstatus(&status, cause)
	return status
}

// setKstatus says in the conditions that tools read on every kind whether the budget could be computed.
func setKstatus(status *policyv1.PodDisruptionBudgetStatus, cause error) {
	ready := metav1.Condition{
		Type: dpolicyv1.PodDisruptionBudgetReady, Status: metav1.ConditionTrue, Reason: dpolicyv1.PodDisruptionBudgetSynced,
		ObservedGeneration: status.ObservedGeneration,
	}
	if cause == nil {
		meta.SetStatusCondition(&status.Conditions, ready)
		meta.RemoveStatusCondition(&status.Conditions, dpolicyv1.PodDisruptionBudgetStalled)
		return
	}
	ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, policyv1.SyncFailedReason, cause.Error()
	meta.SetStatusCondition(&status.Conditions, ready)
	ready.Type, ready.Status = dpolicyv1.PodDisruptionBudgetStalled, metav1.ConditionTrue
	meta.SetStatusCondition(&status.Conditions, ready)
}

func sameStatus(a, b policyv1.PodDisruptionBudgetStatus) bool {
	return equality.Semantic.DeepEqual(a, b)
}
