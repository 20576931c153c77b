package deployment

import (
	"sort"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/ptr"
)

// Observed is a Deployment and everything that a plan depends on, as the cache shows it. Every field that
// upstream defaults is set. Planners only read it.
type Observed struct {
	// Deployment is the Deployment itself.
	Deployment *appsv1.Deployment
	// New is the ReplicaSet of the current template, or nil when it does not exist yet.
	New *appsv1.ReplicaSet
	// Old are the ReplicaSets of former templates, oldest first.
	Old []*appsv1.ReplicaSet
	// OldPodsRun says that a pod of an old ReplicaSet has not ended yet, be it terminating or not. It is
	// known for the Recreate strategy only.
	OldPodsRun bool
}

// ReplicaIntent is the size that a planner wants one ReplicaSet to have.
type ReplicaIntent struct {
	// ReplicaSet names an existing ReplicaSet. Empty means the one of the current template, which does
	// not exist yet and is to be created.
	ReplicaSet string
	// Replicas is the wanted size.
	Replicas int32
	// Rescaled says that the size takes the Deployment's own size into account, so that the ReplicaSet
	// is to record it, even where its size stays as it is.
	Rescaled bool
}

// Planner decides the sizes of a Deployment's ReplicaSets. It is asked again whenever something that it
// could observe has changed, so it plans one step, not the whole way. ReplicaSets without an intent stay
// as they are.
type Planner interface {
	Plan(seen Observed, now time.Time) []ReplicaIntent
}

// plannerFor picks the planner of this step, and says whether the step is part of a rollout, whose
// progress is to be judged. While a Deployment is paused or its own size has changed, all of its
// ReplicaSets are scaled in proportion, so that a rollout goes neither faster nor slower for it.
func plannerFor(seen Observed) (planner Planner, rollout bool) {
	switch {
	case seen.Deployment.DeletionTimestamp != nil:
		return idle{}, false
	case seen.Deployment.Spec.Paused, rescaled(seen):
		return proportional{}, false
	case seen.Deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return recreate{}, true
	default:
		return rollingUpdate{}, true
	}
}

// rescaled says that the Deployment's size is not the one for which its ReplicaSets were last sized.
func rescaled(seen Observed) bool {
	for _, set := range controller.FilterActiveReplicaSets(seen.all()) {
		desired, known := deploymentutil.GetDesiredReplicasAnnotation(klog.Background(), set)
		if known && desired != *seen.Deployment.Spec.Replicas {
			return true
		}
	}
	return false
}

// idle plans nothing: the Deployment is being deleted.
type idle struct{}

// Plan implements Planner.
func (idle) Plan(Observed, time.Time) []ReplicaIntent { return nil }

// all returns the old ReplicaSets and, if there is one, the new.
func (o Observed) all() []*appsv1.ReplicaSet {
	all := append([]*appsv1.ReplicaSet(nil), o.Old...)
	if o.New != nil {
		all = append(all, o.New)
	}
	return all
}

// desired is the Deployment's own size.
func (o Observed) desired() int32 { return *o.Deployment.Spec.Replicas }

// nascent stands for the new ReplicaSet while it does not exist.
func nascent() *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](0)}}
}

// resized returns set with another size; set itself stays as it is.
func resized(set *appsv1.ReplicaSet, replicas int32) *appsv1.ReplicaSet {
	changed := *set
	changed.Spec.Replicas = &replicas
	return &changed
}

// toSize returns the intent to give set a size, or nothing when it has it.
func toSize(set *appsv1.ReplicaSet, replicas int32) []ReplicaIntent {
	if *set.Spec.Replicas == replicas {
		return nil
	}
	return []ReplicaIntent{{ReplicaSet: set.Name, Replicas: replicas}}
}

// surplusHistory returns the old ReplicaSets that the Deployment's history limit gives up, oldest
// revision first. Those that have pods, want some, or were not looked at by their controller since their
// last change stay.
func surplusHistory(seen Observed) []*appsv1.ReplicaSet {
	if !deploymentutil.HasRevisionHistoryLimit(seen.Deployment) {
		return nil
	}
	kept := controller.FilterReplicaSets(seen.Old, func(set *appsv1.ReplicaSet) bool {
		return set.DeletionTimestamp == nil
	})
	surplus := len(kept) - int(*seen.Deployment.Spec.RevisionHistoryLimit)
	if surplus <= 0 {
		return nil
	}
	sort.Sort(deploymentutil.ReplicaSetsByRevision(kept))
	return controller.FilterReplicaSets(kept[:surplus], func(set *appsv1.ReplicaSet) bool {
		return set.Status.Replicas == 0 && *set.Spec.Replicas == 0 && set.Generation <= set.Status.ObservedGeneration
	})
}

// nextRevision is the revision that the ReplicaSet of the current template must have at least.
func nextRevision(seen Observed) string {
	return strconv.FormatInt(deploymentutil.MaxRevision(klog.Background(), seen.Old)+1, 10)
}
