package webhooks

import (
	"context"
	"reflect"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/admission"
)

// request is what both ways of being asked have in common.
type request struct {
	resource    schema.GroupResource
	subresource string
	operation   admissionv1.Operation
	// object is changed in place by a mutating review; nil for a deletion.
	object, old map[string]any
	// options are a deletion's.
	options *metav1.DeleteOptions
	dryRun  bool
	// audit is filled in by a mutating review: what to write into the request's audit event.
	audit map[string]string
}

// reviewer answers requests.
type reviewer struct {
	lookup admission.Lookup
	pods   admission.PodPatcher
}

// review prepares (mutate) or only validates the object of a request. The error is the API's answer.
func (r *reviewer) review(ctx context.Context, req *request, mutate bool) (warnings []string, err error) {
	kind := kinds[req.resource]
	switch {
	case kind == nil:
		return nil, nil
	case req.operation == admissionv1.Delete:
		if mutate && req.resource == podResource && req.subresource == "" {
			return r.reviewDelete(ctx, kind, req)
		}
		return nil, nil
	case req.operation == admissionv1.Update && req.subresource == "status":
		if mutate {
			return nil, nil
		}
		return reviewStatus(ctx, kind, req)
	case req.subresource != "":
		return nil, nil
	case req.operation == admissionv1.Update && !changes(req):
		return nil, nil
	}
	if b := binding(req); b != nil {
		return nil, admission.StatusError(kind.GroupKind(), kind.resource, b.Pod, b.Validate())
	}
	object, err := kind.decode(req.object, "status")
	if err != nil {
		return nil, err
	}
	var old admission.Object
	if req.operation == admissionv1.Update {
		if old, err = kind.decode(req.old); err != nil {
			return nil, err
		}
	}
	var errs field.ErrorList
	if !mutate {
		errs = finalized(object, old)
	}
	warnings, more := admission.PrepareObject(ctx, object, old, r.lookup)
	if mutate {
		req.audit = admission.AuditPodSecurity(ctx, object, r.lookup)
	}
	if errs = append(errs, more...); len(errs) > 0 {
		return nil, kind.answer(object, errs)
	}
	if mutate {
		return warnings, kind.encode(object, req.object)
	}
	// Mutation has given the warnings.
	return nil, nil
}

// answer makes the API's error of errs.
func (k *kind) answer(object admission.Object, errs field.ErrorList) error {
	name := object.GetName()
	if name == "" {
		name = object.GetGenerateName()
	}
	return admission.StatusError(k.GroupKind(), k.resource, name, errs)
}

func (r *reviewer) reviewDelete(ctx context.Context, kind *kind, req *request) ([]string, error) {
	if req.options == nil || req.options.GracePeriodSeconds == nil || req.old == nil {
		return nil, nil
	}
	pod, err := kind.decode(req.old)
	if err != nil {
		return nil, err
	}
	return admission.PrepareDelete(ctx, pod.(*corev1.Pod), req.options, req.dryRun, r.pods)
}

// reviewStatus decodes the spec once: a status update cannot change it.
func reviewStatus(ctx context.Context, kind *kind, req *request) ([]string, error) {
	if !kind.status || reflect.DeepEqual(req.object["status"], req.old["status"]) {
		return nil, nil
	}
	object, err := kind.decode(req.object, "spec")
	if err != nil {
		return nil, err
	}
	old, err := kind.decode(req.old)
	if err != nil {
		return nil, err
	}
	warnings, errs := admission.ValidateStatus(ctx, object, old)
	return warnings, kind.answer(object, errs)
}

// finalized refuses a new pod that something between mutation and validation has taken our finalizer
// from: it could not end gracefully.
func finalized(object, old admission.Object) field.ErrorList {
	if _, ok := object.(*corev1.Pod); !ok || old != nil || slices.Contains(object.GetFinalizers(), dcorev1.NodeFinalizer) {
		return nil
	}
	return field.ErrorList{field.Required(field.NewPath("metadata", "finalizers"), "must contain "+dcorev1.NodeFinalizer)}
}

// changes says whether an update changes anything that admission looks at: every field but type, status
// and most of the metadata, which the API server validates itself. Two of a pod's usual writes, the
// removal of a finalizer and a controller's adoption, change nothing.
func changes(req *request) bool {
	for _, pair := range [][2]map[string]any{{req.object, req.old}, {req.old, req.object}} {
		for name, value := range pair[0] {
			switch name {
			case "apiVersion", "kind", "metadata", "status":
			default:
				if !reflect.DeepEqual(value, pair[1][name]) {
					return true
				}
			}
		}
	}
	return !reflect.DeepEqual(annotations(req.object), annotations(req.old))
}

func annotations(content map[string]any) any {
	metadata, _ := content["metadata"].(map[string]any)
	return metadata["annotations"]
}

// binding returns what an update binds that sets a pod's node and changes nothing else, as a scheduler's
// does, and nil for any other. It is every pod's write, so nothing is decoded for it.
func binding(req *request) *admission.Binding {
	if req.operation != admissionv1.Update || req.resource != podResource {
		return nil
	}
	is, _ := req.object["spec"].(map[string]any)
	was, _ := req.old["spec"].(map[string]any)
	node, _ := is["nodeName"].(string)
	if before, _ := was["nodeName"].(string); node == "" || before != "" || len(is) != len(was)+1 {
		return nil
	}
	for name, value := range is {
		if name != "nodeName" && !reflect.DeepEqual(value, was[name]) {
			return nil
		}
	}
	if !reflect.DeepEqual(annotations(req.object), annotations(req.old)) {
		return nil
	}
	metadata, _ := req.old["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	gates, _ := is["schedulingGates"].([]any)
	return &admission.Binding{Pod: name, Node: node, Deleting: metadata["deletionTimestamp"] != nil, Gated: len(gates) > 0}
}
