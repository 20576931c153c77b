package webhooks

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// ConfigurationName is the name of both webhook configurations.
const ConfigurationName = "drayage"

// webhookTimeout is in seconds. It leaves room for the wait for a new namespace's service account.
const webhookTimeout = 10

// Configurations returns the webhook configurations that lead an API server to what Register serves:
// Drayage's kinds only, failing closed. Requests of the user manager to create pods skip both webhooks:
// the workload controllers prepare their pods themselves. Updates that change nothing but metadata other
// than annotations, or the status, skip them as well. The target's path is set here.
func Configurations(target admissionregistrationv1.WebhookClientConfig, manager string) (*admissionregistrationv1.MutatingWebhookConfiguration, *admissionregistrationv1.ValidatingWebhookConfiguration) {
	conditions := []admissionregistrationv1.MatchCondition{
		{
			Name:       "not-prepared-by-manager",
			Expression: `!(request.operation == "CREATE" && request.resource.resource == "pods" && request.userInfo.username == ` + strconv.Quote(manager) + `)`,
		},
		{
			Name: "changes-spec-or-annotations",
			Expression: `request.operation != "UPDATE" || !has(object.spec) || !has(oldObject.spec) || object.spec != oldObject.spec || ` +
				`has(object.metadata.annotations) != has(oldObject.metadata.annotations) || ` +
				`(has(object.metadata.annotations) && object.metadata.annotations != oldObject.metadata.annotations)`,
		},
	}
	writes := []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update}
	mutating := &admissionregistrationv1.MutatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionregistrationv1.SchemeGroupVersion.String(), Kind: "MutatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: ConfigurationName},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name:         "mutate.drayage.dev",
			ClientConfig: at(target, MutatePath),
			// A deletion's grace period is carried by a side effect, which a dry run leaves out.
			Rules:                   append(rules(writes), rule(*kinds[podResource], admissionregistrationv1.Delete)),
			FailurePolicy:           ptr.To(admissionregistrationv1.Fail),
			MatchPolicy:             ptr.To(admissionregistrationv1.Exact),
			SideEffects:             ptr.To(admissionregistrationv1.SideEffectClassNoneOnDryRun),
			ReinvocationPolicy:      ptr.To(admissionregistrationv1.IfNeededReinvocationPolicy),
			TimeoutSeconds:          ptr.To[int32](webhookTimeout),
			AdmissionReviewVersions: []string{"v1"},
			MatchConditions:         conditions,
		}},
	}
	validating := &admissionregistrationv1.ValidatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionregistrationv1.SchemeGroupVersion.String(), Kind: "ValidatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: ConfigurationName},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name:                    "validate.drayage.dev",
			ClientConfig:            at(target, ValidatePath),
			Rules:                   rules(writes),
			FailurePolicy:           ptr.To(admissionregistrationv1.Fail),
			MatchPolicy:             ptr.To(admissionregistrationv1.Exact),
			SideEffects:             ptr.To(admissionregistrationv1.SideEffectClassNone),
			TimeoutSeconds:          ptr.To[int32](webhookTimeout),
			AdmissionReviewVersions: []string{"v1"},
			MatchConditions:         conditions,
		}},
	}
	return mutating, validating
}

// rules names every kind, one rule each, in the order of their names.
func rules(operations []admissionregistrationv1.OperationType) []admissionregistrationv1.RuleWithOperations {
	var out []admissionregistrationv1.RuleWithOperations
	for _, k := range slices.SortedFunc(maps.Values(kinds), func(a, b *kind) int {
		return cmp.Compare(a.resource.String(), b.resource.String())
	}) {
		out = append(out, rule(*k, operations...))
	}
	return out
}

func rule(k kind, operations ...admissionregistrationv1.OperationType) admissionregistrationv1.RuleWithOperations {
	return admissionregistrationv1.RuleWithOperations{
		Operations: operations,
		Rule: admissionregistrationv1.Rule{
			APIGroups:   []string{k.Group},
			APIVersions: []string{k.Version},
			Resources:   []string{k.resource.Resource},
			Scope:       ptr.To(admissionregistrationv1.AllScopes),
		},
	}
}

// at leads a client configuration to a path: by the service's path, or by the end of the URL.
func at(target admissionregistrationv1.WebhookClientConfig, path string) admissionregistrationv1.WebhookClientConfig {
	target = *target.DeepCopy()
	if target.Service != nil {
		target.Service.Path = ptr.To(path)
	}
	if target.URL != nil {
		target.URL = ptr.To(fmt.Sprintf("%s%s", *target.URL, path))
	}
	return target
}
