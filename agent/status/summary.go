package status

import (
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1conversion "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"

	dcorev1 "drayage.dev/apis/core/v1"
)

// generator makes upstream's table of pods, the one that kubectl shows for core pods.
var generator = sync.OnceValue(func() *printers.HumanReadableGenerator {
	return printers.NewTableGenerator().With(printersinternal.AddHandlers)
})

// Summary returns the pod in the words of `kubectl get pods`.
func Summary(pod *corev1.Pod) (dcorev1.PodSummary, error) {
	internal := &core.Pod{}
	if err := corev1conversion.Convert_v1_Pod_To_core_Pod(pod.DeepCopy(), internal, nil); err != nil {
		return dcorev1.PodSummary{}, fmt.Errorf("converting pod: %w", err)
	}
	table, err := generator().GenerateTable(internal, printers.GenerateOptions{NoHeaders: true})
	if err != nil {
		return dcorev1.PodSummary{}, fmt.Errorf("summarising pod: %w", err)
	}
	if len(table.Rows) != 1 || len(table.Rows[0].Cells) < 4 {
		return dcorev1.PodSummary{}, fmt.Errorf("summarising pod: upstream's table has another shape")
	}
	cells := table.Rows[0].Cells
	// "3 (5s ago)": the age would be old at once.
	restarts, _, _ := strings.Cut(fmt.Sprint(cells[3]), " ")
	return dcorev1.PodSummary{Ready: fmt.Sprint(cells[1]), Status: fmt.Sprint(cells[2]), Restarts: restarts}, nil
}
