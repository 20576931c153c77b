package replicaset

import (
	"sort"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
)

// burst bounds how many pods one pass creates or deletes; the next pass goes on. Upstream's number.
const burst = 500

// observed is one ReplicaSet and its pods as the cache shows them. The pods are the cache's own and are
// only read.
type observed struct {
	set         *appsv1.ReplicaSet
	selector    labels.Selector
	active      []*corev1.Pod
	terminating []*corev1.Pod
	// surge is how many pods there are to be beyond the replicas: replacements of pods whose eviction waits
	// for them.
	surge int
}

// surplus is how many pods there are too many; below zero, how many are missing. It is bounded by burst
// both ways.
func (o observed) surplus() int {
	return min(max(len(o.active)-int(*o.set.Spec.Replicas)-o.surge, -burst), burst)
}

// leaving splits off the pods whose eviction somebody has asked for lately.
func leaving(active []*corev1.Pod, now time.Time) (leaving, staying []*corev1.Pod) {
	for _, pod := range active {
		_, mark := podutil.GetPodCondition(&pod.Status, dcorev1.PodEvictionRequested)
		if mark != nil && mark.Status == corev1.ConditionTrue && now.Sub(mark.LastProbeTime.Time) < dcorev1.EvictionRequestPatience {
			leaving = append(leaving, pod)
		} else {
			staying = append(staying, pod)
		}
	}
	return leaving, staying
}

// surgeFor is how many pods a ReplicaSet may have beyond its replicas for wanted replacements: what its
// Deployment's maxSurge leaves of the replicas of all its ReplicaSets.
func surgeFor(set *appsv1.ReplicaSet, siblings []*appsv1.ReplicaSet, wanted int) int {
	most, err := strconv.Atoi(set.Annotations[deploymentutil.MaxReplicasAnnotation])
	if err != nil || *set.Spec.Replicas == 0 {
		return 0 // no Deployment's
	}
	for _, sibling := range siblings {
		most -= int(ptr.Deref(sibling.Spec.Replicas, 1))
	}
	return max(min(wanted, most), 0)
}

// leastNeeded picks the count active pods whose loss hurts least, by upstream's ranking: not yet
// assigned, pending, not ready, cheap by annotation, doubled up on a node, young. Related are the pods of
// all ReplicaSets with the same owner; they tell which nodes are doubled up.
func leastNeeded(active, related []*corev1.Pod, count int, now time.Time) []*corev1.Pod {
	if count >= len(active) {
		return active
	}
	if going, _ := leaving(active, now); len(going) > 0 {
		return leavingFirst(active, related, count, now)
	}
	return leastByRank(active, related, count, now)
}

// leavingFirst prefers, of the pods that serve, those that are to be evicted anyway.
func leavingFirst(active, related []*corev1.Pod, count int, now time.Time) []*corev1.Pod {
	var serving, others []*corev1.Pod
	for _, pod := range active {
		if podutil.IsPodReady(pod) {
			serving = append(serving, pod)
		} else {
			others = append(others, pod)
		}
	}
	going, staying := leaving(serving, now)
	var picked []*corev1.Pod
	for _, group := range [][]*corev1.Pod{others, going, staying} {
		picked = append(picked, leastByRank(group, related, min(count-len(picked), len(group)), now)...)
	}
	return picked
}

// leastByRank picks by upstream's ranking alone.
func leastByRank(active, related []*corev1.Pod, count int, now time.Time) []*corev1.Pod {
	perNode := map[string]int{}
	for _, pod := range related {
		if controller.IsPodActive(pod) {
			perNode[pod.Spec.NodeName]++
		}
	}
	ranked := controller.ActivePodsWithRanks{
		Pods: append([]*corev1.Pod(nil), active...),
		Rank: make([]int, len(active)),
		Now:  metav1.Time{Time: now},
	}
	for i, pod := range ranked.Pods {
		ranked.Rank[i] = perNode[pod.Spec.NodeName]
	}
	sort.Sort(ranked)
	return ranked.Pods[:count]
}
