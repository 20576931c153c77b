package deployment

import (
	"sort"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
)

// proportional brings the ReplicaSets to a changed size of the Deployment and leaves each its share: so
// that scaling in the middle of a rollout does not put more replicas at the mercy of a new template than
// the rollout had reached.
type proportional struct{}

// Plan implements Planner.
func (proportional) Plan(seen Observed, _ time.Time) []ReplicaIntent {
	old := append([]*appsv1.ReplicaSet(nil), seen.Old...)
	// The only active ReplicaSet, or the newest where none is active, takes it all.
	if only := deploymentutil.FindActiveOrLatest(seen.New, old); only != nil {
		return []ReplicaIntent{{ReplicaSet: only.Name, Replicas: seen.desired(), Rescaled: true}}
	}
	if deploymentutil.IsSaturated(seen.Deployment, seen.New) {
		// Adopted beside a finished rollout.
		var intents []ReplicaIntent
		for _, set := range controller.FilterActiveReplicaSets(old) {
			intents = append(intents, ReplicaIntent{ReplicaSet: set.Name, Replicas: 0})
		}
		return intents
	}
	if !deploymentutil.IsRollingUpdate(seen.Deployment) {
		return nil
	}
	return shares(seen)
}

// shares spreads the difference between what the Deployment may have and what it has over the active
// ReplicaSets by their size; what rounding leaves over goes to the largest.
func shares(seen Observed) []ReplicaIntent {
	active := controller.FilterActiveReplicaSets(seen.all())
	if len(active) == 0 {
		return nil
	}
	var allowed int32
	if seen.desired() > 0 {
		allowed = seen.desired() + deploymentutil.MaxSurge(*seen.Deployment)
	}
	toAdd := allowed - deploymentutil.GetReplicaCountForReplicaSets(active)
	// Of two of one size, the newer grows first and the older shrinks first.
	switch {
	case toAdd > 0:
		sort.Sort(controller.ReplicaSetsBySizeNewer(active))
	case toAdd < 0:
		sort.Sort(controller.ReplicaSetsBySizeOlder(active))
	}
	intents := make([]ReplicaIntent, len(active))
	var added int32
	for i, set := range active {
		share := deploymentutil.GetReplicaSetProportion(klog.Background(), set, *seen.Deployment, toAdd, added)
		added += share
		intents[i] = ReplicaIntent{ReplicaSet: set.Name, Replicas: *set.Spec.Replicas + share, Rescaled: true}
	}
	intents[0].Replicas = max(0, intents[0].Replicas+toAdd-added)
	return intents
}
