// Package poddisruptionbudget computes the status of each PodDisruptionBudget: how many of its pods are
// healthy, how many have to be, and so how many may be disrupted. Rules and words are those of upstream's
// disruption controller. It also takes back marks of pods that were to be evicted and were not.
//
// It shares the status with the eviction subresource (package apiserver), which takes from
// disruptionsAllowed what it grants and enters the pod into disruptedPods; both write with the version that
// they have read, so neither undoes the other. It never deletes a pod.
package poddisruptionbudget
