package admission_test

import (
	"context"
	"reflect"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"drayage.dev/internal/admission"
)

// kindTypes are the upstream types whose fields the lists speak of.
var kindTypes = map[string]reflect.Type{
	"Pod":           reflect.TypeFor[corev1.Pod](),
	"Service":       reflect.TypeFor[corev1.Service](),
	"Node":          reflect.TypeFor[corev1.Node](),
	"EndpointSlice": reflect.TypeFor[discoveryv1.EndpointSlice](),
}

// uncovered returns the paths below t that are neither refused nor implemented. A path of the implemented
// list that ends in "..." stands for all below it.
func uncovered(t reflect.Type, path string, refused, implemented map[string]bool) (missing []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case refused[path] || implemented[path] || implemented[path+"..."]:
		delete(implemented, path)
		delete(implemented, path+"...")
		return nil
	case t.Kind() == reflect.Slice:
		return uncovered(t.Elem(), path+"[*]", refused, implemented)
	case t.Kind() != reflect.Struct:
		return []string{path}
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		child := strings.Trim(path+"."+name, ".")
		missing = append(missing, uncovered(f.Type, child, refused, implemented)...)
	}
	return missing
}

var _ = Describe("the list of unimplemented fields", func() {
	for kind, t := range kindTypes {
		It("and the list of implemented ones cover every field of "+kind, func() {
			refused, known := map[string]bool{}, map[string]bool{}
			for _, f := range admission.Unimplemented()[kind] {
				if len(f.Values) == 0 && len(f.Except) == 0 && f.Unless == "" {
					refused[f.Path] = true
				}
			}
			for _, path := range implemented[kind] {
				known[path] = true
			}
			Expect(uncovered(t, "", refused, known)).To(BeEmpty(),
				"implement these fields and list them as implemented, or refuse them")
			Expect(known).To(BeEmpty(), "listed as implemented, but refused or not there")
		})
	}

	for _, f := range admission.Unimplemented()["Pod"] {
		It("refuses "+f.Path+" of a pod by name", func(ctx context.Context) {
			pod := newPod()
			pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "init"}}
			want := use(reflect.ValueOf(pod).Elem(), f, f.Path)
			_, errs := admission.Prepare(ctx, pod, newLookup())
			Expect(errs.ToAggregate()).To(MatchError(ContainSubstring(want)))
		})
	}

	It("refuses a weight of endpoints that is none", func(ctx context.Context) {
		weigh := func(weight string) error {
			slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
			slice.Namespace, slice.Name = "shop", "web-1"
			slice.Annotations = map[string]string{"networking.drayage.dev/weight": weight}
			_, errs := admission.PrepareObject(ctx, slice, nil, newLookup())
			return errs.ToAggregate()
		}
		for _, weight := range []string{"0", "90", "1000"} {
			Expect(weigh(weight)).To(Succeed())
		}
		for _, weight := range []string{"", "-1", "1001", "10%"} {
			Expect(weigh(weight)).To(MatchError(ContainSubstring("must be a number from 0 to 1000")), weight)
		}
	})

	It("accepts a size limit of a volume in memory", func(ctx context.Context) {
		pod := newPod()
		limit := resource.MustParse("1Mi")
		pod.Spec.Volumes = []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: &limit,
		}}}}
		_, errs := admission.Prepare(ctx, pod, newLookup())
		Expect(errs).To(BeEmpty())
	})

	It("accepts host ports of pods in the host's network", func(ctx context.Context) {
		pod := newPod()
		pod.Spec.HostNetwork = true
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, HostIP: "127.0.0.1"}}
		_, errs := admission.Prepare(ctx, pod, newLookup())
		Expect(errs).To(BeEmpty())
	})

	for _, f := range admission.Unimplemented()["Service"] {
		It("refuses "+f.Path+" of a service by name", func(ctx context.Context) {
			service := newService()
			want := use(reflect.ValueOf(service).Elem(), f, f.Path)
			_, errs := admission.PrepareObject(ctx, service, nil, nil)
			Expect(errs.ToAggregate()).To(MatchError(ContainSubstring(want)))
		})
	}

	for _, f := range admission.Unimplemented()["Node"] {
		It("refuses "+f.Path+" of a node by name", func(ctx context.Context) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
			want := use(reflect.ValueOf(node).Elem(), f, f.Path)
			_, errs := admission.PrepareObject(ctx, node, nil, nil)
			Expect(errs.ToAggregate()).To(MatchError(ContainSubstring(want)))
		})
	}

	for _, f := range admission.Unimplemented()["EndpointSlice"] {
		It("refuses "+f.Path+" of an endpoint slice by name", func(ctx context.Context) {
			slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
			want := use(reflect.ValueOf(slice).Elem(), f, f.Path)
			_, errs := admission.PrepareObject(ctx, slice, nil, nil)
			Expect(errs.ToAggregate()).To(MatchError(ContainSubstring(want)))
		})
	}

	It("holds for the templates of workloads", func(ctx context.Context) {
		d := newDeployment()
		d.Spec.Template.Spec.RuntimeClassName = new(string)
		*d.Spec.Template.Spec.RuntimeClassName = "kata"
		_, errs := admission.PrepareObject(ctx, d, nil, nil)
		Expect(errs.ToAggregate()).To(MatchError("spec.template.spec.runtimeClassName: Forbidden: not implemented by Drayage yet"))
	})
})

// use sets the field at path in v to something that is refused, in the first element of each list on the
// way, and returns the message that this must give.
func use(v reflect.Value, f admission.Field, path string) string {
	GinkgoHelper()
	at := ""
	for path != "" {
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		if rest, ok := strings.CutPrefix(path, "[*]"); ok {
			if v.Len() == 0 {
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			}
			v, path, at = v.Index(0), strings.TrimPrefix(rest, "."), at+"[0]"
			continue
		}
		if path[0] == '[' {
			key, rest, _ := strings.Cut(path[1:], "]")
			Expect(rest).To(BeEmpty())
			v.Set(reflect.MakeMap(v.Type()))
			entry := reflect.New(v.Type().Elem()).Elem()
			if quantity, ok := entry.Addr().Interface().(*resource.Quantity); ok {
				*quantity = resource.MustParse("1Gi")
			} else {
				entry.SetString("Auto")
			}
			v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), entry)
			return at + "[" + key + "]: Forbidden: "
		}
		end := strings.IndexAny(path, ".[")
		name := path
		if end >= 0 {
			name = path[:end]
		}
		path = strings.TrimPrefix(path[len(name):], ".")
		for _, field := range reflect.VisibleFields(v.Type()) {
			if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag == name {
				v = v.FieldByIndex(field.Index)
				break
			}
		}
		at = strings.TrimPrefix(at+"."+name, ".")
	}
	if len(f.Values) == 0 && len(f.Except) == 0 {
		fill(v)
		return at + ": Forbidden: not implemented by Drayage yet"
	}
	value := "Other"
	if len(f.Values) > 0 {
		value = f.Values[0]
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if v.Kind() == reflect.Bool {
		v.SetBool(value == "true")
	} else {
		v.SetString(value)
	}
	return at + `: Forbidden: the value "` + value + `" is not implemented by Drayage yet`
}

// fill sets v to some value that is not its zero value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("cpu").Convert(v.Type().Key()), reflect.Zero(v.Type().Elem()))
	case reflect.Int32:
		v.SetInt(1)
	case reflect.String:
		v.SetString("x")
	default:
		Fail("no value for " + v.Type().String())
	}
}
