package scheduler_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"sigs.k8s.io/yaml"

	"drayage.dev/scheduler"
)

// gated are metrics of kube-scheduler's that come with features which are off by default.
var gated = []string{"scheduler_podgroup_", "scheduler_async_api_call_", "scheduler_pending_async_api_calls", "scheduler_inflight_events", "scheduler_event_handling_duration_seconds"}

var _ = Describe("metrics", func() {
	// registered asks the registry, which shows a metric with labels only once it has a value.
	registered := func(name string) bool {
		err := legacyregistry.Register(metrics.NewGauge(&metrics.GaugeOpts{Name: name, Help: "probe"}))
		return err != nil
	}

	It("have the names that upstream documents", func() {
		startScheduler(scheduler.Config{})
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
		Expect(err).NotTo(HaveOccurred())
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "test/instrumentation/documentation/documentation-list.yaml"))
		Expect(err).NotTo(HaveOccurred())
		var documented []struct{ Name, Subsystem, Namespace string }
		Expect(yaml.Unmarshal(data, &documented)).To(Succeed())
		checked := 0
		for _, m := range documented {
			name := m.Subsystem + "_" + m.Name
			if m.Subsystem != "scheduler" || m.Namespace != "" || slices.ContainsFunc(gated, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
				continue
			}
			checked++
			Expect(registered(name)).To(BeTrue(), name)
		}
		Expect(checked).To(BeNumerically(">", 15))
		for _, own := range []string{"bindings_total", "bindings_in_flight", "events_dropped_total", "decisions_total", "disagreements_total", "class_pods"} {
			Expect(registered("drayage_scheduler_"+own)).To(BeTrue(), own)
		}
		Expect(registered("scheduler_of_another_name")).To(BeFalse(), "the check can fail")
	})
})
