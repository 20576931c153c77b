package admission

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// unmergeLabelKeys takes out of label selectors what upstream's strategy merges into them for
// matchLabelKeys and mismatchLabelKeys. Upstream prepares a pod once; here the one who creates it, a
// webhook and the API server may each do, and merging twice would add the expressions twice.
func unmergeLabelKeys(pod *corev1.Pod) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		unmerge(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
	}
	affinity := pod.Spec.Affinity
	if affinity == nil {
		return
	}
	unmergeTerm := func(term *corev1.PodAffinityTerm) {
		unmerge(term.LabelSelector, term.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
		unmerge(term.LabelSelector, term.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, pod.Labels)
	}
	unmergeTerms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			unmergeTerm(&required[i])
		}
		for i := range preferred {
			unmergeTerm(&preferred[i].PodAffinityTerm)
		}
	}
	if a := affinity.PodAffinity; a != nil {
		unmergeTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		unmergeTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func unmerge(selector *metav1.LabelSelector, keys []string, operator metav1.LabelSelectorOperator, labels map[string]string) {
	if selector == nil || len(keys) == 0 {
		return
	}
	selector.MatchExpressions = slices.DeleteFunc(selector.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		value, ok := labels[e.Key]
		return ok && e.Operator == operator && slices.Contains(keys, e.Key) && len(e.Values) == 1 && e.Values[0] == value
	})
}
