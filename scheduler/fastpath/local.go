package fastpath

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	resourcehelper "k8s.io/component-helpers/resource"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/features"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	schedutil "k8s.io/kubernetes/pkg/scheduler/util"
)

// demand is what a pod asks of a node, in load's units.
type demand struct {
	cpu, memory, storage int64
	// With defaults for what is missing, as upstream's allocation score has it.
	scoredCPU, scoredMemory int64
}

// demandOf sums up a pod's requests. plain is false when it asks for more than cpu, memory and storage.
func demandOf(pod *corev1.Pod) (d demand, plain bool) {
	options := resourcehelper.PodResourcesOptions{
		SkipPodLevelResources: !utilfeature.DefaultFeatureGate.Enabled(features.PodLevelResources),
	}
	requests := resourcehelper.PodRequests(pod, options)
	for name, quantity := range requests {
		switch name {
		case corev1.ResourceCPU:
			d.cpu = quantity.MilliValue()
		case corev1.ResourceMemory:
			d.memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			d.storage = quantity.Value()
		default:
			if !quantity.IsZero() {
				return d, false
			}
		}
	}
	options.NonMissingContainerRequests = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(schedutil.DefaultMilliCPURequest, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(schedutil.DefaultMemoryRequest, resource.DecimalSI),
	}
	requests = resourcehelper.PodRequests(pod, options)
	d.scoredCPU, d.scoredMemory = requests.Cpu().MilliValue(), requests.Memory().Value()
	return d, true
}

// fits is upstream's resource filter.
func (l *load) fits(d *demand) bool {
	return l.held < l.pods &&
		(d.cpu == 0 || d.cpu <= l.cpu-l.usedCPU) &&
		(d.memory == 0 || d.memory <= l.memory-l.usedMemory) &&
		(d.storage == 0 || d.storage <= l.storage-l.usedStorage)
}

// allocation is a profile's way to score how full a node gets: upstream's LeastAllocated or MostAllocated.
type allocation struct {
	most                    bool
	cpuWeight, memoryWeight int64
}

// newAllocation reads a profile's strategy. ok is false for what only upstream's plugin can score.
func newAllocation(strategy *schedulerconfig.ScoringStrategy) (a allocation, ok bool) {
	if strategy == nil || len(strategy.Resources) == 0 {
		return a, false
	}
	switch strategy.Type {
	case schedulerconfig.LeastAllocated:
	case schedulerconfig.MostAllocated:
		a.most = true
	default:
		return a, false
	}
	a.cpuWeight, a.memoryWeight, ok = cpuAndMemory(strategy.Resources)
	return a, ok
}

// cpuAndMemory reads weights of resources; ok is false when there are others.
func cpuAndMemory(resources []schedulerconfig.ResourceSpec) (cpu, memory int64, ok bool) {
	for _, r := range resources {
		switch corev1.ResourceName(r.Name) {
		case corev1.ResourceCPU:
			cpu = r.Weight
		case corev1.ResourceMemory:
			memory = r.Weight
		default:
			return 0, 0, false
		}
	}
	return cpu, memory, true
}

func (a *allocation) score(l *load, d *demand) int64 {
	var score, weights int64
	add := func(requested, capacity, weight int64) {
		if capacity == 0 || weight == 0 {
			return
		}
		requested = min(requested, capacity)
		if !a.most {
			requested = capacity - requested
		}
		score += requested * fwk.MaxScore / capacity * weight
		weights += weight
	}
	add(l.scoredCPU+d.scoredCPU, l.cpu, a.cpuWeight)
	add(l.scoredMemory+d.scoredMemory, l.memory, a.memoryWeight)
	if weights == 0 {
		return 0
	}
	return score / weights
}

// balance is upstream's score of how much evener a node's use of cpu and memory gets.
func (l *load) balance(d *demand) int64 {
	const half = fwk.MaxScore / 2
	after := evenness(l.usedCPU+d.cpu, l.cpu, l.usedMemory+d.memory, l.memory)
	before := evenness(l.usedCPU, l.cpu, l.usedMemory, l.memory)
	return half + (half+after-before)/2
}

func evenness(cpu, allCPU, memory, allMemory int64) int64 {
	deviation := 0.0
	if allCPU != 0 && allMemory != 0 {
		deviation = math.Abs((min(float64(cpu)/float64(allCPU), 1) - min(float64(memory)/float64(allMemory), 1)) / 2)
	}
	return int64((1 - deviation) * float64(fwk.MaxScore))
}
