package admission

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/discovery"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	deploymentregistry "k8s.io/kubernetes/pkg/registry/apps/deployment"
	replicasetregistry "k8s.io/kubernetes/pkg/registry/apps/replicaset"
	noderegistry "k8s.io/kubernetes/pkg/registry/core/node"
	serviceregistry "k8s.io/kubernetes/pkg/registry/core/service"
	endpointsliceregistry "k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	budgetregistry "k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	priorityclassregistry "k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
)

// Object is an upstream object of one of the kinds that Drayage has: *corev1.Pod, Node and Service,
// *appsv1.Deployment and ReplicaSet, *discoveryv1.EndpointSlice, *schedulingv1.PriorityClass,
// *policyv1.PodDisruptionBudget.
type Object interface{ object }

// PrepareObject defaults and validates the creation of obj (old is nil) or its change from old, as
// Prepare does for a pod's creation. It writes to both.
func PrepareObject(ctx context.Context, obj, old Object, lookup Lookup) (warnings []string, errs field.ErrorList) {
	switch obj := obj.(type) {
	case *corev1.Pod:
		if old == nil {
			return Prepare(ctx, obj, lookup)
		}
		return prepareUpdate(ctx, obj, old.(*corev1.Pod))
	case *corev1.Service:
		if old == nil {
			return prepareService(ctx, obj)
		}
		return prepareServiceUpdate(ctx, obj, old.(*corev1.Service))
	case *corev1.Node:
		return prepare(ctx, noderegistry.Strategy, obj, old, newNode, nodeMatcher.refused(obj, nil, nil))
	case *appsv1.Deployment:
		warnings, errs := prepare(ctx, deploymentregistry.Strategy, obj, old, newDeployment, refuseDeployment(obj))
		return append(warnings, secureTemplate(ctx, obj.Namespace, &obj.Spec.Template, lookup)...), errs
	case *appsv1.ReplicaSet:
		warnings, errs := prepare(ctx, replicasetregistry.Strategy, obj, old, newReplicaSet, refuseReplicaSet(obj))
		return append(warnings, secureTemplate(ctx, obj.Namespace, &obj.Spec.Template, lookup)...), errs
	case *discoveryv1.EndpointSlice:
		// The strategy's declarative validation asks which request it serves.
		ctx = request.WithRequestInfo(ctx, &request.RequestInfo{
			IsResourceRequest: true, APIGroup: discoveryv1.GroupName, APIVersion: "v1", Resource: "endpointslices",
		})
		return prepare(ctx, endpointsliceregistry.Strategy, obj, old, newEndpointSlice, endpointMatcher.refused(obj, nil, nil))
	case *policyv1.PodDisruptionBudget:
		return prepare(ctx, budgetregistry.Strategy, obj, old, newBudget, nil)
	case *schedulingv1.PriorityClass:
		errs := oneDefaultClass(ctx, obj, lookup)
		if len(errs) > 0 {
			return nil, errs
		}
		return prepare(ctx, priorityclassregistry.Strategy, obj, old, newPriorityClass, nil)
	}
	return nil, field.ErrorList{field.InternalError(nil, fmt.Errorf("admitting %T: not a kind of Drayage", obj))}
}

// ValidateStatus validates a change of obj's status from old. Only obj's metadata and status need to be
// there: the spec is taken to be old's. It writes to both.
func ValidateStatus(ctx context.Context, obj, old Object) (warnings []string, errs field.ErrorList) {
	switch obj := obj.(type) {
	case *corev1.Pod:
		return validatePodStatus(ctx, obj, old.(*corev1.Pod))
	case *corev1.Service:
		return validateUpdate(ctx, serviceregistry.StatusStrategy, obj, &core.Service{}, old, &core.Service{})
	case *corev1.Node:
		return validateUpdate(ctx, noderegistry.StatusStrategy, obj, &core.Node{}, old, &core.Node{})
	case *appsv1.Deployment:
		return validateUpdate(ctx, deploymentregistry.StatusStrategy, obj, &apps.Deployment{}, old, &apps.Deployment{})
	case *appsv1.ReplicaSet:
		return validateUpdate(ctx, replicasetregistry.StatusStrategy, obj, &apps.ReplicaSet{}, old, &apps.ReplicaSet{})
	case *policyv1.PodDisruptionBudget:
		return validateUpdate(ctx, budgetregistry.StatusStrategy, obj, &policy.PodDisruptionBudget{}, old, &policy.PodDisruptionBudget{})
	}
	return nil, nil
}

func newNode() runtime.Object          { return &core.Node{} }
func newDeployment() runtime.Object    { return &apps.Deployment{} }
func newReplicaSet() runtime.Object    { return &apps.ReplicaSet{} }
func newEndpointSlice() runtime.Object { return &discovery.EndpointSlice{} }
func newBudget() runtime.Object        { return &policy.PodDisruptionBudget{} }
func newPriorityClass() runtime.Object { return &scheduling.PriorityClass{} }

// strategy is what upstream's kinds have for creation and update.
type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

// prepare is the way of the kinds whose upstream REST layer adds nothing to defaults and strategy.
func prepare(ctx context.Context, s strategy, obj, old Object, internal func() runtime.Object, errs field.ErrorList) ([]string, field.ErrorList) {
	legacyscheme.Scheme.Default(obj)
	if old == nil {
		warnings, more := create(ctx, s, obj, internal())
		return warnings, append(errs, more...)
	}
	legacyscheme.Scheme.Default(old)
	warnings, more := update(ctx, s, obj, internal(), old, internal())
	return warnings, append(errs, more...)
}

// oneDefaultClass refuses a second global default, as upstream's Priority admission plugin does.
func oneDefaultClass(ctx context.Context, class *schedulingv1.PriorityClass, lookup Lookup) field.ErrorList {
	if !class.GlobalDefault {
		return nil
	}
	path := field.NewPath("globalDefault")
	other, err := lookup.DefaultPriorityClass(ctx)
	switch {
	case err != nil:
		return field.ErrorList{field.InternalError(path, fmt.Errorf("failed to get default priority class: %w", err))}
	case other != nil && other.Name != class.Name:
		return refuse(path, fmt.Sprintf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
	}
	return nil
}
