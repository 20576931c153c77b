package deployment

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"

	dappsv1 "drayage.dev/apis/apps/v1"
)

// newStatus is the status that a Deployment should carry after a step. Rollout says that the step was
// part of one, so that its progress is judged; otherwise the Progressing condition stays as it is.
func newStatus(ctx context.Context, seen Observed, rollout bool) dappsv1.DeploymentStatus {
	d, all := seen.Deployment, seen.all()
	available := deploymentutil.GetAvailableReplicaCountForReplicaSets(all)
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  d.Generation,
		Replicas:            deploymentutil.GetActualReplicaCountForReplicaSets(all),
		UpdatedReplicas:     deploymentutil.GetActualReplicaCountForReplicaSets([]*appsv1.ReplicaSet{seen.New}),
		ReadyReplicas:       deploymentutil.GetReadyReplicaCountForReplicaSets(all),
		AvailableReplicas:   available,
		UnavailableReplicas: max(0, deploymentutil.GetReplicaCountForReplicaSets(all)-available),
		TerminatingReplicas: deploymentutil.GetTerminatingReplicaCountForReplicaSets(all),
		CollisionCount:      d.Status.CollisionCount,
		Conditions:          append([]appsv1.DeploymentCondition(nil), d.Status.Conditions...),
	}
	setAvailable(&status, d)
	if rollout {
		setProgressing(ctx, &status, seen)
		setReplicaFailure(&status, seen)
	}
	setKstatus(&status, d)
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		// Observing has refused such a selector before.
		return dappsv1.DeploymentStatus{DeploymentStatus: status}
	}
	return dappsv1.DeploymentStatus{
		DeploymentStatus: status,
		Selector:         selector.String(),
		Summary: dappsv1.DeploymentSummary{
			Ready:     fmt.Sprintf("%d/%d", status.ReadyReplicas, *d.Spec.Replicas),
			UpToDate:  status.UpdatedReplicas,
			Available: status.AvailableReplicas,
		},
	}
}

func setAvailable(status *appsv1.DeploymentStatus, d *appsv1.Deployment) {
	condition := deploymentutil.NewDeploymentCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse,
		deploymentutil.MinimumReplicasUnavailable, "Deployment does not have minimum availability.")
	if status.AvailableReplicas >= *d.Spec.Replicas-deploymentutil.MaxUnavailable(*d) {
		condition = deploymentutil.NewDeploymentCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue,
			deploymentutil.MinimumReplicasAvailable, "Deployment has minimum availability.")
	}
	deploymentutil.SetDeploymentCondition(status, *condition)
}

// setProgressing judges a rollout by what has changed since the status that the Deployment carries. Once
// complete, a rollout is not judged again before the next one.
func setProgressing(ctx context.Context, status *appsv1.DeploymentStatus, seen Observed) {
	d := seen.Deployment
	if !deploymentutil.HasProgressDeadline(d) {
		deploymentutil.RemoveDeploymentCondition(status, appsv1.DeploymentProgressing)
		return
	}
	current := deploymentutil.GetDeploymentCondition(d.Status, appsv1.DeploymentProgressing)
	if status.Replicas == status.UpdatedReplicas && current != nil && current.Reason == deploymentutil.NewRSAvailableReason {
		return
	}
	subject := fmt.Sprintf("Deployment %q", d.Name)
	if seen.New != nil {
		subject = fmt.Sprintf("ReplicaSet %q", seen.New.Name)
	}
	switch {
	case deploymentutil.DeploymentComplete(d, status):
		deploymentutil.SetDeploymentCondition(status, *deploymentutil.NewDeploymentCondition(appsv1.DeploymentProgressing,
			corev1.ConditionTrue, deploymentutil.NewRSAvailableReason, subject+" has successfully progressed."))
	case deploymentutil.DeploymentProgressing(d, status):
		condition := deploymentutil.NewDeploymentCondition(appsv1.DeploymentProgressing,
			corev1.ConditionTrue, deploymentutil.ReplicaSetUpdatedReason, subject+" is progressing.")
		// The deadline counts from the last progress, so lastUpdateTime moves although status and reason
		// stay: the condition is replaced, with the time of its last transition kept.
		if current != nil && current.Status == corev1.ConditionTrue {
			condition.LastTransitionTime = current.LastTransitionTime
		}
		deploymentutil.RemoveDeploymentCondition(status, appsv1.DeploymentProgressing)
		deploymentutil.SetDeploymentCondition(status, *condition)
	case deploymentutil.DeploymentTimedOut(ctx, d, status):
		deploymentutil.SetDeploymentCondition(status, *deploymentutil.NewDeploymentCondition(appsv1.DeploymentProgressing,
			corev1.ConditionFalse, deploymentutil.TimedOutReason, subject+" has timed out progressing."))
	}
}

// setReplicaFailure passes on why pods cannot be created or deleted; the new ReplicaSet's reason counts
// before the old ones'.
func setReplicaFailure(status *appsv1.DeploymentStatus, seen Observed) {
	sets := seen.Old
	if seen.New != nil {
		sets = append([]*appsv1.ReplicaSet{seen.New}, sets...)
	}
	for _, set := range sets {
		for _, condition := range set.Status.Conditions {
			if condition.Type == appsv1.ReplicaSetReplicaFailure {
				deploymentutil.SetDeploymentCondition(status, deploymentutil.ReplicaSetToDeploymentCondition(condition))
				return
			}
		}
	}
	deploymentutil.RemoveDeploymentCondition(status, appsv1.DeploymentReplicaFailure)
}

// notePause records in d's own status that it was paused or resumed: the time in between must not count
// against the progress deadline. A verdict of the deadline stays.
func notePause(d *appsv1.Deployment) {
	current := deploymentutil.GetDeploymentCondition(d.Status, appsv1.DeploymentProgressing)
	paused := current != nil && current.Reason == deploymentutil.PausedDeployReason
	switch {
	case d.DeletionTimestamp != nil, current != nil && current.Reason == deploymentutil.TimedOutReason:
	case d.Spec.Paused && !paused:
		noteProgress(d, corev1.ConditionUnknown, deploymentutil.PausedDeployReason, "Deployment is paused")
	case !d.Spec.Paused && paused:
		noteProgress(d, corev1.ConditionUnknown, deploymentutil.ResumedDeployReason, "Deployment is resumed")
	}
}

// noteFound records in the Deployment's own status that its ReplicaSet existed before anything was said
// about progress, so that the deadline has a time to count from.
func noteFound(seen Observed) {
	d := seen.Deployment
	if seen.New != nil && deploymentutil.GetDeploymentCondition(d.Status, appsv1.DeploymentProgressing) == nil {
		noteProgress(d, corev1.ConditionTrue, deploymentutil.FoundNewRSReason, fmt.Sprintf("Found new replica set %q", seen.New.Name))
	}
}

func noteProgress(d *appsv1.Deployment, status corev1.ConditionStatus, reason, message string) {
	if deploymentutil.HasProgressDeadline(d) {
		deploymentutil.SetDeploymentCondition(&d.Status,
			*deploymentutil.NewDeploymentCondition(appsv1.DeploymentProgressing, status, reason, message))
	}
}

// progressDeadline is when a rollout without progress is to be called timed out. Waiting is false when
// there is nothing to wait for: no deadline, a complete rollout, or a verdict already given.
func progressDeadline(d *appsv1.Deployment, status appsv1.DeploymentStatus) (deadline time.Time, waiting bool) {
	current := deploymentutil.GetDeploymentCondition(status, appsv1.DeploymentProgressing)
	if !deploymentutil.HasProgressDeadline(d) || d.Spec.Paused || d.DeletionTimestamp != nil || current == nil ||
		current.Reason == deploymentutil.TimedOutReason || deploymentutil.DeploymentComplete(d, &status) {
		return time.Time{}, false
	}
	return current.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second), true
}

func sameStatus(a, b dappsv1.DeploymentStatus) bool {
	return equality.Semantic.DeepEqual(a, b)
}
