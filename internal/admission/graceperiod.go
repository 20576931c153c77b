package admission

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	dcorev1 "drayage.dev/apis/core/v1"
)

// validateGracePeriod checks the annotation that carries a deletion's grace period.
func validateGracePeriod(pod *corev1.Pod) field.ErrorList {
	value, ok := pod.Annotations[dcorev1.DeletionGracePeriodAnnotation]
	if !ok {
		return nil
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil && seconds >= 0 {
		return nil
	}
	path := field.NewPath("metadata", "annotations").Key(dcorev1.DeletionGracePeriodAnnotation)
	return field.ErrorList{field.Invalid(path, value, "must be a whole number of seconds, zero or more")}
}
