package fastpath

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons why upstream places a pod one by one; they are values of a metric's label.
const (
	reasonProfile     = "profile"
	reasonNominated   = "nominated"
	reasonVolumes     = "volumes"
	reasonClaims      = "claims"
	reasonResources   = "extended-resources"
	reasonNamespaces  = "namespace-selector"
	reasonGroup       = "pod-group"
	reasonPlugin      = "plugin"
	reasonUnplaceable = "unplaceable"
	reasonDisagreed   = "disagreed"
	reasonPanicked    = "panicked"
)

// supported reports whether the fast path treats a pod, and if not, why.
func supported(pod *corev1.Pod) (reason string, ok bool) {
	switch {
	case pod.Status.NominatedNodeName != "":
		return reasonNominated, false
	case len(pod.Spec.ResourceClaims) > 0:
		return reasonClaims, false
	case pod.Spec.SchedulingGroup != nil:
		return reasonGroup, false
	case selectsNamespaces(pod.Spec.Affinity):
		return reasonNamespaces, false
	}
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.ConfigMap != nil, v.Secret != nil, v.EmptyDir != nil, v.HostPath != nil, v.DownwardAPI != nil, v.Projected != nil:
		default:
			return reasonVolumes, false
		}
	}
	return "", true
}

// selectsNamespaces reports whether some term of the pod picks namespaces by labels.
func selectsNamespaces(affinity *corev1.Affinity) bool {
	selects := func(terms []corev1.PodAffinityTerm, weighted []corev1.WeightedPodAffinityTerm) bool {
		for i := range terms {
			if !all(terms[i].NamespaceSelector) {
				return true
			}
		}
		for i := range weighted {
			if !all(weighted[i].PodAffinityTerm.NamespaceSelector) {
				return true
			}
		}
		return false
	}
	if affinity == nil {
		return false
	}
	if a := affinity.PodAffinity; a != nil &&
		selects(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution) {
		return true
	}
	a := affinity.PodAntiAffinity
	return a != nil && selects(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
}

// all reports whether a selector is absent or selects everything.
func all(selector *v1.LabelSelector) bool {
	return selector == nil || len(selector.MatchLabels)+len(selector.MatchExpressions) == 0
}
