package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	podregistry "k8s.io/kubernetes/pkg/registry/core/pod"

	dcorev1 "drayage.dev/apis/core/v1"
)

// Prepare makes a pod ready to be created and says what is wrong with it: upstream's defaults, the
// service account and its token volume, the tolerations of dead nodes, the priority of the class, our
// finalizer; then upstream's validation, preceded by what Drayage does not implement yet, and the pod
// security standard of the namespace, if lookup knows Namespaces.
//
// It writes to pod, and to whatever pod shares its memory with, so hand in a copy of a template. The
// namespace must be set; a name may still be missing where generateName stands. Preparing a prepared pod
// changes nothing. StatusError turns errs into the API's answer.
func Prepare(ctx context.Context, pod *corev1.Pod, lookup Lookup) (warnings []string, errs field.ErrorList) {
	legacyscheme.Scheme.Default(pod)
	errs = append(errs, useServiceAccount(ctx, pod, lookup)...)
	addDefaultTolerations(pod)
	errs = append(errs, resolvePriority(ctx, pod, lookup)...)
	if len(errs) > 0 {
		return nil, errs
	}
	if !slices.Contains(pod.Finalizers, dcorev1.NodeFinalizer) {
		pod.Finalizers = append(pod.Finalizers, dcorev1.NodeFinalizer)
	}
	errs = append(errs, refusePod(pod)...)
	errs = append(errs, validateGracePeriod(pod)...)
	unmergeLabelKeys(pod)

	warnings, more := create(ctx, podregistry.Strategy, pod, &core.Pod{})
	if errs = append(errs, more...); len(errs) > 0 {
		return nil, errs
	}
	unsafe, errs := securePod(ctx, pod, lookup)
	return append(warnings, unsafe...), errs
}

// prepareUpdate is Prepare for a change of an existing pod. What an update leaves out and only creation
// fills in (priority, token volume) is taken over from old. Setting spec.nodeName is allowed once, on the conditions
// that upstream's binding has.
func prepareUpdate(ctx context.Context, pod, old *corev1.Pod) (warnings []string, errs field.ErrorList) {
	legacyscheme.Scheme.Default(pod)
	legacyscheme.Scheme.Default(old)
	addDefaultTolerations(pod)
	keepPriority(pod, old)
	keepToken(pod, old)
	errs = append(errs, refusePod(pod)...)
	errs = append(errs, validateGracePeriod(pod)...)
	if errs := bind(pod, old); len(errs) > 0 {
		return nil, errs
	}
	warnings, more := update(ctx, podregistry.Strategy, pod, &core.Pod{}, old, &core.Pod{})
	return warnings, append(errs, more...)
}

// Binding is the one change of spec.nodeName that there may be, from none to one.
type Binding struct {
	// Pod and Node are names.
	Pod, Node string
	// Deleting says that the pod is being deleted, Gated that it still has scheduling gates.
	Deleting, Gated bool
}

// Validate says why the pod may not be bound to the node; upstream's conditions. It is all that there is
// to check of an update that only binds.
func (b Binding) Validate() (errs field.ErrorList) {
	path := field.NewPath("spec", "nodeName")
	if b.Deleting {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf("pod %s is being deleted, cannot be assigned to a host", b.Pod)))
	}
	if b.Gated {
		errs = append(errs, field.Forbidden(path, "cannot be set until all schedulingGates have been cleared"))
	}
	for _, problem := range validation.ValidateNodeName(b.Node, false) {
		errs = append(errs, field.Invalid(path, b.Node, problem))
	}
	return errs
}

// bind lets validation pass over the one change of spec.nodeName that there may be: upstream has a
// subresource for it, and its update validation knows none.
func bind(pod, old *corev1.Pod) field.ErrorList {
	if old.Spec.NodeName != "" || pod.Spec.NodeName == "" {
		return nil
	}
	old.Spec.NodeName = pod.Spec.NodeName
	return Binding{
		Pod: pod.Name, Node: pod.Spec.NodeName,
		Deleting: old.DeletionTimestamp != nil, Gated: len(pod.Spec.SchedulingGates) > 0,
	}.Validate()
}

// validatePodStatus is upstream's validation of a change of status. The API server drops the status of a
// custom resource at creation, so the QoS class, which upstream sets there, may be set once later.
func validatePodStatus(ctx context.Context, pod, old *corev1.Pod) (warnings []string, errs field.ErrorList) {
	if old.Status.QOSClass == "" {
		old.Status.QOSClass = pod.Status.QOSClass
	}
	return validateUpdate(ctx, podregistry.StatusStrategy, pod, &core.Pod{}, old, &core.Pod{})
}
