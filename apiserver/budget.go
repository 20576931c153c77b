package apiserver

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	budgethelpers "k8s.io/component-helpers/apps/poddisruptionbudget"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
)

// maxDisrupted bounds the evictions that are granted and not seen yet by the disruption controller. Upstream's
// number.
const maxDisrupted = 2000

const budgetViolated = "Cannot evict pod as it would violate the pod's disruption budget."

// disrupted is the condition of a pod that is evicted.
func disrupted() *corev1.PodCondition {
	return &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
		Reason: dcorev1.PodEvictionByEvictionAPI, Message: "Eviction API: evicting",
	}
}

// sparesBudget says whether a pod that is not ready may go without taking from the budget: because the budget
// says so, or because enough others are healthy.
func sparesBudget(budget *policyv1.PodDisruptionBudget) bool {
	return ptr.Deref(budget.Spec.UnhealthyPodEvictionPolicy, policyv1.IfHealthyBudget) == policyv1.AlwaysAllow ||
		budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
}

// grant takes the disruption of pod from the budget's status, or says why not.
func grant(budget *policyv1.PodDisruptionBudget, pod string, now time.Time) error {
	status := &budget.Status
	forbidden := func(text string) error {
		return apierrors.NewForbidden(dpolicyv1.Resource("poddisruptionbudget"), budget.Name, errors.New(text))
	}
	switch {
	case status.ObservedGeneration < budget.Generation:
		return tooManyRequests(budget.Name)
	case status.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative")
	case len(status.DisruptedPods) > maxDisrupted:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case status.DisruptionsAllowed == 0:
		return refusal(0, refusedBy(budget))
	}
	status.DisruptionsAllowed--
	if status.DisruptionsAllowed == 0 {
		budgethelpers.UpdateDisruptionAllowedCondition(budget)
	}
	if status.DisruptedPods == nil {
		status.DisruptedPods = map[string]metav1.Time{}
	}
	// The disruption controller must not count it as healthy until it sees the deletion.
	status.DisruptedPods[pod] = metav1.Time{Time: now}
	return nil
}

// refusedBy says why the budget allows no disruption.
func refusedBy(budget *policyv1.PodDisruptionBudget) string {
	status := budget.Status
	condition := meta.FindStatusCondition(status.Conditions, policyv1.DisruptionAllowedCondition)
	explained := condition != nil && condition.Status == metav1.ConditionFalse && condition.Message != ""
	switch {
	case explained && condition.Reason == policyv1.SyncFailedReason:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", budget.Name, condition.Message)
	case status.CurrentHealthy <= status.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", budget.Name, status.DesiredHealthy, status.CurrentHealthy)
	case explained:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", budget.Name, condition.Reason, condition.Message)
	}
	return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", budget.Name)
}

// tooManyRequests is the answer while the disruption controller has not caught up. The client's library waits
// and asks again by itself.
func tooManyRequests(budget string) error {
	return refusal(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget))
}

func refusal(retryAfter int, cause string) error {
	err := apierrors.NewTooManyRequests(budgetViolated, retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}
