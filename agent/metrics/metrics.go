package metrics

import (
	"context"
	"path"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	basemetrics "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/kubernetes/pkg/kubelet/metrics"
)

// What came of a wait for the service proxies, as the label result of drayage_agent_withdrawal_duration_seconds.
const (
	acknowledged = "acknowledged"
	expired      = "expired"
)

// withdrawals has no counterpart in kubelet, which does not wait.
var withdrawals = basemetrics.NewHistogramVec(&basemetrics.HistogramOpts{
	Name:           "drayage_agent_withdrawal_duration_seconds",
	Help:           "How long ending pods waited before SIGTERM until no node sent them new connections (acknowledged) or for as long as they may (expired).",
	Buckets:        []float64{0.1, 0.25, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2},
	StabilityLevel: basemetrics.ALPHA,
}, []string{"result"})

var register = sync.OnceFunc(func() {
	// Of kubelet's those that are counted here: one that stands at zero for ever says something that is not so.
	legacyregistry.MustRegister(
		metrics.NodeName, metrics.RunningPodCount, metrics.RunningContainerCount,
		metrics.PodStartDuration, metrics.PodWorkerDuration, metrics.StartedPodsTotal, metrics.StartedPodsErrorsTotal,
		metrics.RuntimeOperations, metrics.RuntimeOperationsDuration, metrics.RuntimeOperationsErrors, withdrawals,
	)
	// That none has expired is worth saying.
	withdrawals.WithLabelValues(acknowledged)
	withdrawals.WithLabelValues(expired)
})

// Register makes the metrics known to the process's registry, and the node's name to them.
func Register(node string) {
	register()
	metrics.SetNodeName(types.NodeName(node))
}

// The operations of a pod's worker, as kubelet's label operation_type has them.
const (
	Sync = "sync"
	Kill = "kill"
)

// Worked notes a pass over a pod that began at start.
func Worked(operation string, start time.Time) {
	metrics.PodWorkerDuration.WithLabelValues(operation).Observe(time.Since(start).Seconds())
}

// Started notes a pod that runs, took after the agent had first heard of it.
func Started(took time.Duration) { metrics.PodStartDuration.Observe(took.Seconds()) }

// Withdrawn notes the end of an ending pod's wait for the service proxies of all Ready nodes: whether they have
// acknowledged that they send it nothing new, and how long it took.
func Withdrawn(byAll bool, took time.Duration) {
	result := expired
	if byAll {
		result = acknowledged
	}
	withdrawals.WithLabelValues(result).Observe(took.Seconds())
}

// Running notes how the node's pods are.
func Running(statuses []*corev1.PodStatus) {
	pods, containers := 0, map[string]int{"created": 0, "running": 0, "exited": 0}
	for _, status := range statuses {
		if status.Phase == corev1.PodRunning {
			pods++
		}
		for _, container := range append(append([]corev1.ContainerStatus(nil), status.InitContainerStatuses...), status.ContainerStatuses...) {
			switch {
			case container.State.Running != nil:
				containers["running"]++
			case container.State.Terminated != nil:
				containers["exited"]++
			default:
				containers["created"]++
			}
		}
	}
	metrics.RunningPodCount.Set(float64(pods))
	for state, count := range containers {
		metrics.RunningContainerCount.WithLabelValues(state).Set(float64(count))
	}
}

// RuntimeCalls counts the calls of a connection to a container runtime.
func RuntimeCalls(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	operation, start := operationOf(method), time.Now()
	err := invoke(ctx, method, request, reply, conn, options...)
	metrics.RuntimeOperations.WithLabelValues(operation).Inc()
	metrics.RuntimeOperationsDuration.WithLabelValues(operation).Observe(time.Since(start).Seconds())
	if operation == runSandbox {
		metrics.StartedPodsTotal.Inc()
	}
	if err != nil {
		metrics.RuntimeOperationsErrors.WithLabelValues(operation).Inc()
		if operation == runSandbox {
			metrics.StartedPodsErrorsTotal.Inc()
		}
	}
	return err
}

const runSandbox = "run_podsandbox"

// operationOf is kubelet's name of a method such as "/runtime.v1.RuntimeService/RunPodSandbox": run_podsandbox.
func operationOf(method string) string {
	name := strings.ReplaceAll(path.Base(method), "PodSandbox", "Podsandbox")
	if name == "UpdateContainerResources" {
		return "update_container"
	}
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
