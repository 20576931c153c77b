package admission

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// notImplemented ends the message of every refused field.
const notImplemented = "not implemented by Drayage yet"

// Field is a field of an upstream kind that Drayage does not implement yet. Objects that use it are
// refused, by the field's path.
type Field struct {
	// Path is the field's path within the kind, with [*] for each element of a list and [key] for an
	// entry of a map: "spec.volumes[*].csi".
	Path string
	// Values are the refused values; none means that any value is refused.
	Values []string
	// Except are the accepted values, where all others are refused.
	Except []string
	// Unless says in words when the field is accepted all the same.
	Unless string

	// unless is given the pod, if there is one, and the struct that the field is in.
	unless func(pod *corev1.PodSpec, parent any) bool
}

// matcher finds refused fields in values of one type. It visits only what leads to one, because it runs
// on every creation.
type matcher struct{ root *branch }

// branch is one step of the refused paths: a struct field, an element of a list or an entry of a map.
type branch struct {
	name     string
	index    []int
	element  bool
	key      string
	children []*branch
	refused  *Field
}

// newMatcher compiles paths against type t. It panics on a path that t does not have, which a program
// meets in its first test.
func newMatcher(t reflect.Type, fields []Field) *matcher {
	m := &matcher{root: &branch{}}
	for i := range fields {
		at, typ := m.root, t
		for _, step := range steps(fields[i].Path) {
			at, typ = at.descend(step, typ)
		}
		at.refused = &fields[i]
	}
	return m
}

// steps splits "spec.volumes[*].csi" into spec, volumes, [*], csi.
func steps(path string) []string {
	var out []string
	for path != "" {
		switch end := strings.IndexAny(path[1:], ".[") + 1; {
		case path[0] == '[':
			end = strings.IndexByte(path, ']') + 1
			out, path = append(out, path[:end]), strings.TrimPrefix(path[end:], ".")
		case end == 0:
			return append(out, path)
		default:
			out, path = append(out, path[:end]), strings.TrimPrefix(path[end:], ".")
		}
	}
	return out
}

func (b *branch) descend(step string, t reflect.Type) (*branch, reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	next := &branch{name: step}
	switch {
	case step == "[*]":
		next.element, t = true, t.Elem()
	case step[0] == '[':
		next.key, t = step[1:len(step)-1], t.Elem()
	default:
		found, ok := jsonField(t, step)
		if !ok {
			panic(fmt.Sprintf("refused field %q is not in %s", step, t))
		}
		next.index, t = found.Index, found.Type
	}
	for _, child := range b.children {
		if child.name == step {
			return child, t
		}
	}
	b.children = append(b.children, next)
	return next, t
}

// jsonField finds a field by its JSON name, also in structs that are embedded inline.
func jsonField(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		switch tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); {
		case tag == name:
			return f, true
		case tag == "" && f.Anonymous && f.Type.Kind() == reflect.Struct:
			if inner, ok := jsonField(f.Type, name); ok {
				inner.Index = append(slices.Clone(f.Index), inner.Index...)
				return inner, true
			}
		}
	}
	return reflect.StructField{}, false
}

// refused returns an error for each refused field that v uses; v lies at path.
func (m *matcher) refused(v any, pod *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	m.root.visit(reflect.ValueOf(v), reflect.Value{}, pod, func() *field.Path { return path }, &errs)
	return errs
}

func (b *branch) visit(v, parent reflect.Value, pod *corev1.PodSpec, path func() *field.Path, errs *field.ErrorList) {
	if v.Kind() == reflect.Pointer && len(b.children) > 0 {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if b.refused != nil {
		if err := b.refused.check(v, parent, pod, path); err != nil {
			*errs = append(*errs, err)
			return
		}
	}
	for _, child := range b.children {
		switch {
		case child.element:
			for i := range v.Len() {
				child.visit(v.Index(i), v, pod, func() *field.Path { return path().Index(i) }, errs)
			}
		case child.key != "":
			if v.Len() == 0 {
				continue
			}
			if entry := v.MapIndex(reflect.ValueOf(child.key).Convert(v.Type().Key())); entry.IsValid() {
				child.visit(entry, v, pod, func() *field.Path { return path().Key(child.key) }, errs)
			}
		default:
			child.visit(v.FieldByIndex(child.index), v, pod, func() *field.Path { return path().Child(child.name) }, errs)
		}
	}
}

// check returns an error if the field is set to something that is refused.
func (f *Field) check(v, parent reflect.Value, pod *corev1.PodSpec, path func() *field.Path) *field.Error {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			return nil
		}
	default:
		if v.IsZero() {
			return nil
		}
	}
	if f.unless != nil && f.unless(pod, parent.Interface()) {
		return nil
	}
	if len(f.Values) == 0 && len(f.Except) == 0 {
		return field.Forbidden(path(), notImplemented)
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	value := fmt.Sprint(v.Interface())
	if len(f.Values) > 0 && !slices.Contains(f.Values, value) || slices.Contains(f.Except, value) {
		return nil
	}
	return field.Forbidden(path(), fmt.Sprintf("the value %q is %s", value, notImplemented))
}

var (
	podMatcher      = newMatcher(reflect.TypeFor[corev1.PodTemplateSpec](), podFields)
	serviceMatcher  = newMatcher(reflect.TypeFor[corev1.Service](), serviceFields)
	nodeMatcher     = newMatcher(reflect.TypeFor[corev1.Node](), nodeFields)
	endpointMatcher = newMatcher(reflect.TypeFor[discoveryv1.EndpointSlice](), endpointSliceFields)
)

// Unimplemented returns the refused fields by kind, in the order of the tables. What holds for Pod holds
// for the pod templates of Deployment and ReplicaSet.
func Unimplemented() map[string][]Field {
	return map[string][]Field{
		"Pod":           slices.Clone(podFields),
		"Service":       slices.Clone(serviceFields),
		"Node":          slices.Clone(nodeFields),
		"EndpointSlice": slices.Clone(endpointSliceFields),
	}
}

func refusePod(pod *corev1.Pod) field.ErrorList {
	// A template has the metadata and spec of a pod, and so the same paths.
	return refuseTemplate(&corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}, nil)
}

func refuseTemplate(template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := podMatcher.refused(template, &template.Spec, path)
	for key := range template.Annotations {
		if strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) {
			errs = append(errs, field.Forbidden(path.Child("metadata", "annotations").Key(key), notImplemented+`: use the field "appArmorProfile"`))
		}
	}
	return errs
}

func refuseDeployment(d *appsv1.Deployment) field.ErrorList {
	return refuseTemplate(&d.Spec.Template, field.NewPath("spec", "template"))
}

func refuseReplicaSet(r *appsv1.ReplicaSet) field.ErrorList {
	return refuseTemplate(&r.Spec.Template, field.NewPath("spec", "template"))
}
