package deployment

import (
	"sort"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/kubernetes/pkg/controller"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
)

// rollingUpdate replaces old pods by new ones step by step: never more than maxSurge pods above the
// Deployment's size, never fewer than maxUnavailable below it available.
type rollingUpdate struct{}

// Plan implements Planner. A step either sizes the new ReplicaSet or shrinks old ones; only the step that
// creates the new ReplicaSet does both.
func (rollingUpdate) Plan(seen Observed, _ time.Time) []ReplicaIntent {
	if seen.New == nil {
		replicas := grownTo(seen, nascent())
		created := ReplicaIntent{Replicas: replicas, Rescaled: true}
		return append([]ReplicaIntent{created}, shrinkOld(seen, resized(nascent(), replicas))...)
	}
	if *seen.New.Spec.Replicas > seen.desired() {
		return toSize(seen.New, seen.desired())
	}
	if grow := toSize(seen.New, grownTo(seen, seen.New)); grow != nil {
		return grow
	}
	return shrinkOld(seen, seen.New)
}

// grownTo is the size to which the new ReplicaSet may grow at once.
func grownTo(seen Observed, current *appsv1.ReplicaSet) int32 {
	all := append(append([]*appsv1.ReplicaSet(nil), seen.Old...), current)
	replicas, err := deploymentutil.NewRSNewReplicas(seen.Deployment, all, current)
	if err != nil {
		// A maxSurge that is neither a number nor a percentage: validation refuses it.
		return *current.Spec.Replicas
	}
	return replicas
}

// shrinkOld takes replicas from old ReplicaSets, oldest first: those that are not available before any
// that is, since they serve nobody and would block the rollout.
func shrinkOld(seen Observed, newSet *appsv1.ReplicaSet) []ReplicaIntent {
	old := controller.FilterActiveReplicaSets(seen.Old)
	sort.Sort(controller.ReplicaSetsByCreationTimestamp(old))
	sizes := make([]int32, len(old))
	total, available := *newSet.Spec.Replicas, newSet.Status.AvailableReplicas
	for i, set := range old {
		sizes[i] = *set.Spec.Replicas
		total += sizes[i]
		available += set.Status.AvailableReplicas
	}
	minAvailable := seen.desired() - deploymentutil.MaxUnavailable(*seen.Deployment)
	// Replicas of the new ReplicaSet that are not available yet need the old ones to serve meanwhile.
	budget := total - minAvailable - (*newSet.Spec.Replicas - newSet.Status.AvailableReplicas)
	if budget > 0 && dropUnavailable(old, sizes, budget) {
		dropAvailable(sizes, available-minAvailable)
	}
	var intents []ReplicaIntent
	for i, set := range old {
		intents = append(intents, toSize(set, sizes[i])...)
	}
	return intents
}

// dropUnavailable lowers sizes by unavailable replicas, budget at most. It gives up, with false, at a
// ReplicaSet that reports more available replicas than it should have: its controller has not caught up
// with its last change, and nobody knows what is really there.
func dropUnavailable(old []*appsv1.ReplicaSet, sizes []int32, budget int32) bool {
	for i, set := range old {
		if budget <= 0 {
			break
		}
		unavailable := sizes[i] - set.Status.AvailableReplicas
		if unavailable < 0 {
			return false
		}
		dropped := min(unavailable, budget)
		sizes[i] -= dropped
		budget -= dropped
	}
	return true
}

// dropAvailable lowers sizes by budget altogether.
func dropAvailable(sizes []int32, budget int32) {
	for i := range sizes {
		if budget <= 0 {
			return
		}
		dropped := min(sizes[i], budget)
		sizes[i] -= dropped
		budget -= dropped
	}
}
