package peers

import (
	"os"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"sigs.k8s.io/yaml"
)

// TestFluxExpressions evaluates the documented health check of Pods as Flux does.
func TestFluxExpressions(t *testing.T) {
	page, err := os.ReadFile("../../../docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "```yaml\nspec:\n  healthCheckExprs:\n")
	if !found {
		t.Fatal("the page has no such example")
	}
	text, _, _ = strings.Cut(text, "```")
	var checks []struct{ APIVersion, Kind, Current, InProgress, Failed string }
	if err := yaml.UnmarshalStrict([]byte(text), &checks); err != nil {
		t.Fatal(err)
	}
	if len(checks) != 1 || checks[0].Kind != "Pod" || checks[0].APIVersion != "core.drayage.dev/v1" {
		t.Fatalf("another example is expected: %v", checks)
	}
	check, err := cel.NewStatusEvaluator(&kustomize.HealthCheckExpressions{
		Current: checks[0].Current, InProgress: checks[0].InProgress, Failed: checks[0].Failed,
	})
	if err != nil {
		t.Fatal(err)
	}
	for phase, want := range map[string]string{
		"pod-new": "InProgress", "pod-unschedulable": "InProgress", "pod-creating": "InProgress", "pod-image-pull": "InProgress",
		"pod-not-ready": "InProgress", "pod-ready": "Current", "pod-crash-loop": "Failed", "pod-succeeded": "Current",
		"pod-failed": "Failed", "pod-evicted": "Failed", "pod-node-lost": "InProgress",
	} {
		t.Run(phase, func(t *testing.T) {
			result, err := check.Evaluate(t.Context(), kept(t, phase))
			if err != nil {
				t.Fatal(err)
			}
			if string(result.Status) != want {
				t.Errorf("is %s, not %s", result.Status, want)
			}
		})
	}
}
