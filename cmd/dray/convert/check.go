package convert

import (
	"context"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	"drayage.dev/internal/admission"
)

// strict decodes upstream's kinds and names unknown and doubled fields.
var strict = json.NewSerializerWithOptions(json.DefaultMetaFactory, clientgoscheme.Scheme, clientgoscheme.Scheme,
	json.SerializerOptions{Yaml: true, Strict: true})

// check notes why Drayage would not accept the object, which is upstream's still: fields that are not implemented, by name, and what
// is plainly invalid. It is Drayage's own admission that says so, without a cluster to look things up in.
func (c *converter) check(object *yaml.Node, apiVersion, kind string) {
	reasons := refusals(object, schema.FromAPIVersionAndKind(apiVersion, kind))
	if len(reasons) > 0 {
		c.result.refused++
	}
	for _, reason := range reasons {
		c.note(kind, nameOf(object), "will be refused: "+reason)
	}
}

func refusals(object *yaml.Node, kind schema.GroupVersionKind) []string {
	data, err := encode([]*yaml.Node{object})
	if err != nil {
		return []string{err.Error()}
	}
	typed, err := clientgoscheme.Scheme.New(kind)
	if err != nil {
		return nil // a kind of Drayage's that upstream has no types for: the API server will judge it
	}
	var reasons []string
	if _, _, err := strict.Decode(data, nil, typed); err != nil {
		reasons = append(reasons, err.Error())
		if !runtime.IsStrictDecodingError(err) {
			return reasons
		}
	}
	subject, ok := typed.(admission.Object)
	if !ok {
		return reasons
	}
	accessor := typed.(metav1.Object)
	if accessor.GetNamespace() == "" && namespaced(typed) {
		accessor.SetNamespace(corev1.NamespaceDefault)
	}
	_, errs := admission.PrepareObject(context.Background(), subject, nil, offline{})
	for _, err := range errs {
		reasons = append(reasons, err.Error())
	}
	return reasons
}

// namespaced reports whether objects of that type live in a namespace. Of Drayage's kinds, these do not.
func namespaced(object runtime.Object) bool {
	switch object.(type) {
	case *corev1.Node, *schedulingv1.PriorityClass:
		return false
	}
	return true
}

// offline answers as a cluster would that has everything.
type offline struct{}

func (offline) PriorityClass(_ context.Context, name string) (*schedulingv1.PriorityClass, error) {
	return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
}

func (offline) DefaultPriorityClass(context.Context) (*schedulingv1.PriorityClass, error) {
	return nil, nil
}

func (offline) ServiceAccount(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}, nil
}
