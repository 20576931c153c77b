package replicaset

import (
	"sort"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kubernetes/pkg/controller"
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
}

// surplus is how many pods there are too many; below zero, how many are missing. It is bounded by burst
// both ways.
func (o observed) surplus() int {
	return min(max(len(o.active)-int(*o.set.Spec.Replicas), -burst), burst)
}

// leastNeeded picks the count active pods whose loss hurts least, by upstream's ranking: not yet
// assigned, pending, not ready, cheap by annotation, doubled up on a node, young. Related are the pods of
// all ReplicaSets with the same owner; they tell which nodes are doubled up.
func leastNeeded(active, related []*corev1.Pod, count int, now time.Time) []*corev1.Pod {
	if count >= len(active) {
		return active
	}
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
