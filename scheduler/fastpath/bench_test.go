package fastpath_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// outputVariable names the file that gets one JSON line per workload.
const outputVariable = "BENCH_JSON"

// workload is a burst of pods on empty nodes.
type workload struct {
	name  string
	nodes int
	pods  int
	// peers is how many of the pods upstream places; its CPU per pod hardly depends on it.
	peers int
	pod   func(n int) *corev1.Pod
}

const benchNodes, benchPods = 5000, 10000

var workloads = []workload{
	{"plain", benchNodes, benchPods, 1000, func(int) *corev1.Pod { return benchPod() }},
	{"node-affinity", benchNodes, benchPods, 1000, func(int) *corev1.Pod {
		pod := benchPod()
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{term(corev1.LabelTopologyZone, "zone-0", "zone-1")},
			},
		}}
		return pod
	}},
	{"zone-spread", benchNodes, benchPods, 1000, func(int) *corev1.Pod {
		pod := benchPod()
		pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels},
		}}
		return pod
	}},
	{"preferred-host-anti-affinity", benchNodes, benchPods, 1000, func(int) *corev1.Pod {
		pod := benchPod()
		pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
				Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{
					TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels},
				},
			}},
		}}
		return pod
	}},
	{"required-zone-affinity", benchNodes, benchPods, 1000, func(int) *corev1.Pod {
		pod := benchPod()
		pod.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				TopologyKey: corev1.LabelTopologyZone, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels},
			}},
		}}
		return pod
	}},
	{"required-host-anti-affinity", 2 * benchNodes, benchPods, 1000, func(int) *corev1.Pod {
		pod := benchPod()
		pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels},
			}},
		}}
		return pod
	}},
	{"replicasets-of-1000", benchNodes, benchPods, 1000, ownedBy(1000)},
	{"replicasets-of-100", benchNodes, benchPods, 1000, ownedBy(100)},
	{"replicasets-of-10", benchNodes, benchPods, 1000, ownedBy(10)},
	{"distinct", benchNodes, benchPods, 1000, func(n int) *corev1.Pod {
		pod := benchPod()
		pod.Labels = map[string]string{"app": fmt.Sprint("app-", n)}
		pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(50+n%100), resource.DecimalSI)
		return pod
	}},
	{"plain-50000-nodes", 10 * benchNodes, benchPods, 200, func(int) *corev1.Pod { return benchPod() }},
}

func benchPod() *corev1.Pod {
	pod := newTemplate(map[string]string{"app": "web"})
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("500Mi"),
	}
	return pod
}

// ownedBy makes pods of ReplicaSets of some size, one after the other, without rules of their own.
func ownedBy(size int) func(int) *corev1.Pod {
	yes := true
	return func(n int) *corev1.Pod {
		pod, set := benchPod(), fmt.Sprint("set-", n/size)
		pod.Labels = map[string]string{"set": set}
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set, UID: types.UID(set), Controller: &yes}}
		return pod
	}
}

func (w *workload) cluster(ctx context.Context, b *testing.B, fast bool) *cluster {
	c, err := newCluster(ctx, fast)
	if err != nil {
		b.Fatal(err)
	}
	for n := range w.nodes {
		name := fmt.Sprint("node-", n)
		c.scheduler.Cache.AddNode(c.logger(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
				corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", n%10),
			}},
			Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110"),
			}},
		})
	}
	for n := range w.pods {
		pod := w.pod(n)
		if owner := metav1.GetControllerOf(pod); owner != nil {
			set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: owner.Name, UID: owner.UID}}
			set.Spec.Selector = &metav1.LabelSelector{MatchLabels: pod.Labels}
			if err := c.know(set); err != nil {
				b.Fatal(err)
			}
		}
	}
	return c
}

// run places pods and returns the CPU time that a pod took. Time, not the clock: machines are shared.
func (w *workload) run(ctx context.Context, b *testing.B, fast bool, pods int) time.Duration {
	c := w.cluster(ctx, b, fast)
	if err := c.begin(); err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	var spent time.Duration
	for n := range pods {
		pod := c.stamp(w.pod(n))
		start := cpuTime()
		node, err := c.decide(ctx, pod)
		spent += cpuTime() - start
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.place(pod, node); err != nil {
			b.Fatal(err)
		}
	}
	return spent / time.Duration(pods)
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkDecisions compares upstream's SchedulePod with the fast path, algorithm only: snapshot,
// decision, confirmation; no API. Upstream runs as it comes, looking at a part of the nodes only.
func BenchmarkDecisions(b *testing.B) {
	var lines *json.Encoder
	if name := os.Getenv(outputVariable); name != "" {
		file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
		lines = json.NewEncoder(file)
	}
	for _, w := range workloads {
		b.Run(w.name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var ours, peer time.Duration
			for b.Loop() {
				ours = w.run(ctx, b, true, w.pods)
				peer = w.run(ctx, b, false, w.peers)
			}
			ratio := float64(peer) / float64(ours)
			b.ReportMetric(float64(ours.Nanoseconds())/1e3, "ours-us/pod")
			b.ReportMetric(float64(peer.Nanoseconds())/1e3, "peer-us/pod")
			b.ReportMetric(ratio, "ratio")
			if lines == nil {
				return
			}
			if err := lines.Encode(map[string]any{
				"name": "scheduler/" + w.name, "unit": "us CPU per pod", "ratio": ratio,
				"ours": float64(ours.Nanoseconds()) / 1e3, "peer": float64(peer.Nanoseconds()) / 1e3,
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
