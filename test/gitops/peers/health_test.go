// Package peers asks the tools' own code about Drayage's objects, as package gitops keeps them: the health that
// Argo CD's Lua runner gets from config/argocd/argocd-cm.yaml, and what Flux makes of the expressions in
// docs/gitops.md. It is a module of its own, since the tools' dependencies are not those of the product, which
// it does not import. `make test-gitops` runs it.
package peers

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

type phase struct {
	Object, KStatus, ArgoCD, Core, Says string
}

func TestHealth(t *testing.T) {
	overrides := shipped(t)
	var phases []phase
	read(t, "../phases.yaml", &phases)
	kinds := map[string]bool{}
	for _, phase := range phases {
		t.Run(phase.Object, func(t *testing.T) {
			object := kept(t, phase.Object)
			kinds[lua.GetConfigMapKey(object.GroupVersionKind())] = true
			ours, err := health.GetResourceHealth(object, overrides)
			if err != nil || ours == nil {
				t.Fatalf("no health: %v", err)
			}
			if string(ours.Status) != phase.ArgoCD {
				t.Errorf("is %s (%s), not %s", ours.Status, ours.Message, phase.ArgoCD)
			}
			theirs, err := health.GetResourceHealth(asCore(object), nil)
			if err != nil {
				t.Fatal(err)
			}
			if theirs != nil && phase.Core == "" && theirs.Status != ours.Status {
				t.Errorf("is %s, core's kind would be %s (%s)", ours.Status, theirs.Status, theirs.Message)
			}
			if ours.Status == health.HealthStatusDegraded && ours.Message == "" {
				t.Error("is degraded without a word why")
			}
		})
	}
	for key := range overrides {
		if !kinds[key] {
			t.Errorf("no object of %s is kept", key)
		}
	}
}

// TestNoScriptTrips runs every script on an object that has nothing but its names.
func TestNoScriptTrips(t *testing.T) {
	for key := range shipped(t) {
		group, kind, _ := strings.Cut(key, "/")
		object := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": group + "/v1", "kind": kind, "spec": map[string]any{},
			"metadata": map[string]any{"name": "web", "generation": int64(1)},
		}}
		got, err := health.GetResourceHealth(object, shipped(t))
		if err != nil || got == nil || got.Status != health.HealthStatusProgressing {
			t.Errorf("%s: %+v, %v", key, got, err)
		}
	}
}

// shipped are the customisations as Argo CD reads them from its ConfigMap.
func shipped(t *testing.T) lua.ResourceHealthOverrides {
	t.Helper()
	var configMap struct{ Data map[string]string }
	read(t, "../../../config/argocd/argocd-cm.yaml", &configMap)
	overrides := lua.ResourceHealthOverrides{}
	for key, script := range configMap.Data {
		name, found := strings.CutPrefix(key, "resource.customizations.health.")
		if !found {
			t.Fatalf("%s is none of health", key)
		}
		overrides[strings.Replace(name, "_", "/", 1)] = v1alpha1.ResourceOverride{HealthLua: script}
	}
	return overrides
}

// ownConditions are those that a kind carries beside upstream's.
var ownConditions = []string{"Reconciling", "Stalled"}

// asCore is the object as core's kind would be.
func asCore(object *unstructured.Unstructured) *unstructured.Unstructured {
	core := object.DeepCopy()
	group, version, _ := strings.Cut(core.GetAPIVersion(), "/")
	core.SetAPIVersion(map[string]string{"core.drayage.dev": "", "apps.drayage.dev": "apps/", "policy.drayage.dev": "policy/"}[group] + version)
	conditions, found, _ := unstructured.NestedSlice(core.Object, "status", "conditions")
	if found {
		conditions = slices.DeleteFunc(conditions, func(condition any) bool {
			return slices.Contains(ownConditions, condition.(map[string]any)["type"].(string))
		})
		_ = unstructured.SetNestedSlice(core.Object, conditions, "status", "conditions")
	}
	return core
}

// kept is the object of a phase.
func kept(t *testing.T, phase string) *unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../testdata/phases", phase+".yaml"))
	if err == nil {
		data, err = yaml.YAMLToJSON(data)
	}
	object := &unstructured.Unstructured{}
	if err == nil {
		err = object.UnmarshalJSON(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}
