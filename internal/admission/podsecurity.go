package admission

import (
	"context"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// Namespaces is implemented by a Lookup that knows namespaces. Where the API server's admission asks with
// one, the Pod Security Standards that a namespace's labels demand hold for Drayage's pods too.
type Namespaces interface {
	// Namespace returns a namespace.
	Namespace(ctx context.Context, name string) (*corev1.Namespace, error)
}

// evaluator holds upstream's checks of every level and version.
var evaluator = sync.OnceValues(func() (policy.Evaluator, error) {
	return policy.NewEvaluator(policy.DefaultChecks(), nil)
})

// unlabelled is the policy of a namespace that demands nothing; upstream's default.
var unlabelled = func() api.Policy {
	all := api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()}
	return api.Policy{Enforce: all, Audit: all, Warn: all}
}()

// securePod says by which of the pod security standards of its namespace a new pod is refused, or would
// be if the namespace enforced what it warns of.
func securePod(ctx context.Context, pod *corev1.Pod, lookup Lookup) (warnings []string, errs field.ErrorList) {
	demanded, check, err := demands(ctx, pod.Namespace, lookup)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	if check == nil {
		return nil, nil
	}
	if result := policy.AggregateCheckResults(check.EvaluatePod(demanded.Enforce, &pod.ObjectMeta, &pod.Spec)); !result.Allowed {
		return nil, refuse(field.NewPath("spec"), fmt.Sprintf("violates PodSecurity %q: %s", demanded.Enforce.String(), result.ForbiddenDetail()))
	}
	return warnOf(check, demanded.Warn, &pod.ObjectMeta, &pod.Spec), nil
}

// AuditPodSecurity returns what upstream's admission would write into the audit event of a request that makes or
// changes obj, by upstream's keys without its prefix: the policy that a pod was held to, and what the namespace has
// audited of pods and templates. Nil where lookup knows no Namespaces or the namespace demands nothing.
func AuditPodSecurity(ctx context.Context, obj Object, lookup Lookup) map[string]string {
	var meta *metav1.ObjectMeta
	var spec *corev1.PodSpec
	notes := map[string]string{}
	demanded, check, err := demands(ctx, obj.GetNamespace(), lookup)
	if err != nil || check == nil {
		return nil
	}
	switch obj := obj.(type) {
	case *corev1.Pod:
		meta, spec = &obj.ObjectMeta, &obj.Spec
		notes[api.EnforcedPolicyAnnotationKey] = demanded.Enforce.String()
	case *appsv1.Deployment:
		meta, spec = &obj.Spec.Template.ObjectMeta, &obj.Spec.Template.Spec
	case *appsv1.ReplicaSet:
		meta, spec = &obj.Spec.Template.ObjectMeta, &obj.Spec.Template.Spec
	default:
		return nil
	}
	if violations := warnOf(check, demanded.Audit, meta, spec); len(violations) > 0 {
		notes[api.AuditViolationsAnnotationKey] = violations[0]
	}
	return notes
}

// secureTemplate warns of what the pods of a template would be warned of or refused by.
func secureTemplate(ctx context.Context, namespace string, template *corev1.PodTemplateSpec, lookup Lookup) []string {
	demanded, check, err := demands(ctx, namespace, lookup)
	if err != nil || check == nil {
		return nil
	}
	return warnOf(check, demanded.Warn, &template.ObjectMeta, &template.Spec)
}

// demands returns what a namespace's labels demand, and nothing to check it with where that is nothing.
func demands(ctx context.Context, namespace string, lookup Lookup) (api.Policy, policy.Evaluator, error) {
	namespaces, ok := lookup.(Namespaces)
	if !ok {
		return unlabelled, nil, nil
	}
	found, err := namespaces.Namespace(ctx, namespace)
	if err != nil {
		return unlabelled, nil, fmt.Errorf("failed to lookup namespace %q: %w", namespace, err)
	}
	// A level that does not exist is taken for the strictest one; the API server warns of it elsewhere.
	demanded, invalid := api.PolicyToEvaluate(found.Labels, unlabelled)
	if len(invalid) == 0 && demanded.FullyPrivileged() {
		return demanded, nil, nil
	}
	check, err := evaluator()
	return demanded, check, err
}

func warnOf(check policy.Evaluator, level api.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) []string {
	result := policy.AggregateCheckResults(check.EvaluatePod(level, meta, spec))
	if result.Allowed {
		return nil
	}
	return []string{fmt.Sprintf("would violate PodSecurity %q: %s", level.String(), result.ForbiddenDetail())}
}
