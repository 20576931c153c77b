package webhooks

import (
	"encoding/json"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	dpolicyv1 "drayage.dev/apis/policy/v1"
	dschedulingv1 "drayage.dev/apis/scheduling/v1"
	"drayage.dev/internal/admission"
)

// kind is one of the kinds that are admitted.
type kind struct {
	schema.GroupVersionKind
	resource schema.GroupResource
	// new returns an empty object of the upstream kind, whose JSON is ours but for fields that upstream
	// lacks (summaries, the selector as a string); those stay as they are.
	new func() admission.Object
	// status says that the kind has a status subresource.
	status bool
}

var kinds = func() map[schema.GroupResource]*kind {
	all := map[schema.GroupResource]*kind{}
	add := func(version schema.GroupVersion, name, resource string, status bool, new func() admission.Object) {
		gr := schema.GroupResource{Group: version.Group, Resource: resource}
		all[gr] = &kind{version.WithKind(name), gr, new, status}
	}
	add(dcorev1.GroupVersion, "Pod", "pods", true, func() admission.Object { return &corev1.Pod{} })
	add(dcorev1.GroupVersion, "Node", "nodes", true, func() admission.Object { return &corev1.Node{} })
	add(dcorev1.GroupVersion, "Service", "services", true, func() admission.Object { return &corev1.Service{} })
	add(dappsv1.GroupVersion, "Deployment", "deployments", true, func() admission.Object { return &appsv1.Deployment{} })
	add(dappsv1.GroupVersion, "ReplicaSet", "replicasets", true, func() admission.Object { return &appsv1.ReplicaSet{} })
	add(ddiscoveryv1.GroupVersion, "EndpointSlice", "endpointslices", false, func() admission.Object { return &discoveryv1.EndpointSlice{} })
	add(dschedulingv1.GroupVersion, "PriorityClass", "priorityclasses", false, func() admission.Object { return &schedulingv1.PriorityClass{} })
	add(dpolicyv1.GroupVersion, "PodDisruptionBudget", "poddisruptionbudgets", true, func() admission.Object { return &policyv1.PodDisruptionBudget{} })
	return all
}()

var podResource = dcorev1.Resource("pods")

// decode turns content into an object of the upstream kind, without its managed fields and without the
// top-level fields named. A value of a wrong type is answered as upstream's API server answers it.
func (k *kind) decode(content map[string]any, without ...string) (admission.Object, error) {
	content = maps.Clone(content)
	for _, name := range without {
		delete(content, name)
	}
	if metadata, ok := content["metadata"].(map[string]any); ok {
		metadata = maps.Clone(metadata)
		delete(metadata, "managedFields")
		content["metadata"] = metadata
	}
	object := k.new()
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, object)
	if err == nil {
		return object, nil
	}
	// The converter does not name the field; decoding as the API server does, does.
	if data, marshalErr := json.Marshal(content); marshalErr == nil {
		if decodeErr := kjson.UnmarshalCaseSensitivePreserveInts(data, k.new()); decodeErr != nil {
			err = decodeErr
		}
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", k.Kind, k.Version, k.Kind, err))
}

// encode writes the object's fields into content: everything but type, metadata and status, of which
// only the finalizers are admission's.
func (k *kind) encode(object admission.Object, content map[string]any) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("encoding %s %q: %w", k.Kind, object.GetName(), err))
	}
	for _, name := range []string{"apiVersion", "kind", "metadata", "status"} {
		delete(fields, name)
	}
	maps.Copy(content, fields)
	metadata, ok := content["metadata"].(map[string]any)
	if !ok {
		metadata = map[string]any{}
		content["metadata"] = metadata
	}
	if finalizers := object.GetFinalizers(); len(finalizers) > 0 {
		list := make([]any, len(finalizers))
		for i, f := range finalizers {
			list[i] = f
		}
		metadata["finalizers"] = list
	}
	return nil
}
