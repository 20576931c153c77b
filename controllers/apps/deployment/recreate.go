package deployment

import (
	"time"

	"k8s.io/kubernetes/pkg/controller"
)

// recreate ends every old pod before it starts the first new one, for applications that cannot run twice.
type recreate struct{}

// Plan implements Planner.
func (recreate) Plan(seen Observed, _ time.Time) []ReplicaIntent {
	var intents []ReplicaIntent
	for _, old := range controller.FilterActiveReplicaSets(seen.Old) {
		intents = append(intents, ReplicaIntent{ReplicaSet: old.Name, Replicas: 0})
	}
	switch {
	case len(intents) > 0, seen.OldPodsRun:
		return intents
	case seen.New == nil:
		return []ReplicaIntent{{Replicas: seen.desired(), Rescaled: true}}
	default:
		return toSize(seen.New, seen.desired())
	}
}
