package gitops_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"drayage.dev/test/changes"
)

// phase is a line of phases.yaml.
type phase struct {
	Object, KStatus, ArgoCD, Core, Says string
}

func phases() []phase {
	data, err := os.ReadFile("phases.yaml")
	if err != nil {
		panic(err)
	}
	var list []phase
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		panic(err)
	}
	return list
}

// make brings an object into a phase; its name is the phase's.
type makePhase func(ctx context.Context, namespace, name string) client.Object

var _ = Describe("an object in the phase", func() {
	makers := map[string]makePhase{}
	for _, kind := range []map[string]makePhase{deploymentPhases, replicaSetPhases, servicePhases, nodePhases, podPhases, budgetPhases} {
		for name, maker := range kind {
			makers[name] = maker
		}
	}
	for _, phase := range phases() {
		maker := makers[phase.Object]
		delete(makers, phase.Object)
		It(phase.Object+" is "+phase.KStatus+" to kstatus", func(ctx SpecContext) {
			Expect(maker).NotTo(BeNil(), "nothing makes it")
			namespace := newNamespace(ctx)
			object := plain(ctx, maker(ctx, namespace, phase.Object), namespace)
			keep(phase.Object, object)

			result, err := status.Compute(object)
			Expect(err).NotTo(HaveOccurred())
			Expect(string(result.Status)).To(Equal(phase.KStatus), result.Message)
			theirs, err := status.Compute(asCore(object))
			Expect(err).NotTo(HaveOccurred())
			if phase.Core == "" {
				Expect(result.Status).To(Equal(theirs.Status), "as core's kind, where phases.yaml says nothing else; core: "+theirs.Message)
			}
		}, SpecTimeout(5*time.Minute))
	}
	It("is listed in phases.yaml", func() { Expect(makers).To(BeEmpty()) })
})

// ownConditions are those that a kind carries beside upstream's.
var ownConditions = map[string][]string{
	"Deployment": {"Ready", "Reconciling", "Stalled"}, "ReplicaSet": {"Ready", "Reconciling"},
	"Service": {"Ready", "Reconciling", "Stalled"}, "Node": {"Stalled"}, "Pod": {"Stalled"}, "PodDisruptionBudget": {"Ready", "Stalled"},
}

// asCore is the object as core's kind would be.
func asCore(object *unstructured.Unstructured) *unstructured.Unstructured {
	core := object.DeepCopy()
	group, version, _ := strings.Cut(core.GetAPIVersion(), "/")
	core.SetAPIVersion(map[string]string{"core.drayage.dev": "", "apps.drayage.dev": "apps/", "policy.drayage.dev": "policy/"}[group] + version)
	if generation, _, _ := unstructured.NestedInt64(core.Object, "status", "observedGeneration"); generation == 0 {
		unstructured.RemoveNestedField(core.Object, "status", "observedGeneration")
	}
	conditions, found, _ := unstructured.NestedSlice(core.Object, "status", "conditions")
	conditions = slices.DeleteFunc(conditions, func(condition any) bool {
		return slices.Contains(ownConditions[core.GetKind()], condition.(map[string]any)["type"].(string))
	})
	if found {
		Expect(unstructured.SetNestedSlice(core.Object, conditions, "status", "conditions")).To(Succeed())
	}
	return core
}

// keep compares an object with the one that is kept, or keeps it with DRAYAGE_UPDATE=1.
func keep(name string, object *unstructured.Unstructured) {
	GinkgoHelper()
	fresh, err := yaml.Marshal(object.Object)
	Expect(err).NotTo(HaveOccurred())
	file := filepath.Join("testdata", "phases", name+".yaml")
	if os.Getenv("DRAYAGE_UPDATE") != "" {
		Expect(os.MkdirAll(filepath.Dir(file), 0o755)).To(Succeed())
		Expect(os.WriteFile(file, fresh, 0o644)).To(Succeed())
		return
	}
	kept, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	Expect(string(fresh)).To(Equal(string(kept)), "run the specs with DRAYAGE_UPDATE=1 where the change is meant")
}

// plain is an object without what differs from run to run. A typed one is read anew: its Go type cannot tell
// an observed generation of zero from none.
func plain(ctx context.Context, object client.Object, namespace string) *unstructured.Unstructured {
	GinkgoHelper()
	u, seen := object.(*unstructured.Unstructured)
	if !seen {
		gvk, err := api.GroupVersionKindFor(object)
		Expect(err).NotTo(HaveOccurred())
		u = &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		Expect(api.Get(ctx, client.ObjectKeyFromObject(object), u)).To(Succeed())
	}
	u.Object = constant(u.Object, namespace).(map[string]any)
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	u.SetUID("00000000-0000-0000-0000-000000000000")
	if observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); u.GetKind() == "Node" && observed > 0 {
		// How often a node was tainted on its way depends on who was faster.
		u.SetGeneration(u.GetGeneration() - observed + 1)
		Expect(unstructured.SetNestedField(u.Object, int64(1), "status", "observedGeneration")).To(Succeed())
	}
	return u
}

// constant replaces times and the namespace's name, and sorts conditions.
func constant(value any, namespace string) any {
	switch value := value.(type) {
	case map[string]any:
		for key, field := range value {
			_, text := field.(string)
			switch {
			case text && (strings.HasSuffix(key, "Time") || strings.HasSuffix(key, "Timestamp") || strings.HasSuffix(key, "At") || key == "timeAdded"):
				value[key] = "2026-01-01T00:00:00Z"
			default:
				value[key] = constant(field, namespace)
			}
		}
		if conditions, found := value["conditions"].([]any); found {
			slices.SortFunc(conditions, func(a, b any) int {
				return strings.Compare(a.(map[string]any)["type"].(string), b.(map[string]any)["type"].(string))
			})
		}
	case []any:
		for i := range value {
			value[i] = constant(value[i], namespace)
		}
	case string:
		return strings.ReplaceAll(value, namespace, "default")
	}
	return value
}

// first waits for the first state of an object that matches, by a watch that begins before change: states
// that controllers overtake at once are seen as well.
func first[T client.Object](ctx context.Context, object T, matches func(T) bool, change func()) client.Object {
	GinkgoHelper()
	gvk, err := api.GroupVersionKindFor(object)
	Expect(err).NotTo(HaveOccurred())
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	watch, err := changes.Of(ctx, api, list, client.MatchingFields{"metadata.name": object.GetName()}, client.InNamespace(object.GetNamespace()))
	Expect(err).NotTo(HaveOccurred())
	defer watch.Stop()
	change()
	for {
		select {
		case event, open := <-watch.ResultChan():
			Expect(open).To(BeTrue())
			seen, ok := event.Object.(*unstructured.Unstructured)
			Expect(ok).To(BeTrue())
			typed := object.DeepCopyObject().(T)
			Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(seen.Object, typed)).To(Succeed())
			if matches(typed) {
				return seen
			}
		case <-ctx.Done():
			Fail("no such state was seen")
		}
	}
}

// created returns an object as it is before anybody has seen it.
func created[T client.Object](ctx context.Context, object T) client.Object {
	GinkgoHelper()
	return first(ctx, object.DeepCopyObject().(T), func(T) bool { return true }, func() { create(ctx, object) })
}

// deleted returns an object as it is while something holds it back from going.
func deleted[T client.Object](ctx context.Context, object T) client.Object {
	GinkgoHelper()
	const hold = "example.com/hold"
	edit(ctx, object, func(object T) { object.SetFinalizers(append(object.GetFinalizers(), hold)) })
	DeferCleanup(func(ctx SpecContext) { edit(ctx, object, func(object T) { object.SetFinalizers(nil) }) })
	return first(ctx, object, func(object T) bool { return object.GetDeletionTimestamp() != nil }, func() {
		Expect(api.Delete(ctx, object.DeepCopyObject().(T))).To(Succeed())
	})
}

func create(ctx context.Context, object client.Object) {
	GinkgoHelper()
	Expect(api.Create(ctx, object)).To(Succeed())
}
