package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	schedulinghelpers "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/utils/ptr"
)

// resolvePriority does to a new pod what upstream's Priority admission plugin does, in its words. The
// two system classes exist without an object.
func resolvePriority(ctx context.Context, pod *corev1.Pod, lookup Lookup) field.ErrorList {
	path := field.NewPath("spec", "priorityClassName")
	class, errs := priorityClass(ctx, pod.Spec.PriorityClassName, lookup)
	if len(errs) > 0 {
		return errs
	}
	value, policy := int32(scheduling.DefaultPriorityWhenNoDefaultClassExists), ptr.To(corev1.PreemptLowerPriority)
	if class != nil {
		value, policy = class.Value, class.PreemptionPolicy
		pod.Spec.PriorityClassName = class.Name
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return refuse(path, fmt.Sprintf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	pod.Spec.Priority = ptr.To(value)
	if policy == nil {
		return nil
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != *policy {
		return refuse(path, fmt.Sprintf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, *policy))
	}
	pod.Spec.PreemptionPolicy = ptr.To(*policy)
	return nil
}

// priorityClass returns the class of that name, or the default class for no name; nil where there is no
// default class.
func priorityClass(ctx context.Context, name string, lookup Lookup) (*schedulingv1.PriorityClass, field.ErrorList) {
	path := field.NewPath("spec", "priorityClassName")
	if name == "" {
		class, err := lookup.DefaultPriorityClass(ctx)
		if err != nil {
			return nil, field.ErrorList{field.InternalError(path, fmt.Errorf("error occurred while retrieving default priority class: %w", err))}
		}
		return class, nil
	}
	class, err := lookup.PriorityClass(ctx, name)
	switch {
	case err == nil:
		return class, nil
	case !apierrors.IsNotFound(err):
		return nil, field.ErrorList{field.InternalError(path, fmt.Errorf("failed to resolve PriorityClass with name %s: %w", name, err))}
	}
	for _, system := range schedulinghelpers.SystemPriorityClasses() {
		if system.Name == name {
			// Defaulting at creation would have given it this policy.
			system = system.DeepCopy()
			system.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
			return system, nil
		}
	}
	return nil, refuse(path, fmt.Sprintf("no PriorityClass with name %v was found", name))
}

// keepPriority fills in the priority that creation computed, where an update leaves it out.
func keepPriority(pod, old *corev1.Pod) {
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}
