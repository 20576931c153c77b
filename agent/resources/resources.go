package resources

import (
	"path"

	"github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	corev1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	kubeletqos "k8s.io/kubernetes/pkg/kubelet/qos"
)

// The kernel's bounds (kernel/sched) and kubelet's constants in pkg/kubelet/cm.
const (
	minShares    = 2
	maxShares    = 262144
	sharesPerCPU = 1024
	milliPerCPU  = 1000

	quotaPeriod = 100_000 // microseconds
	minQuota    = 1_000   // microseconds
)

// Container returns the cgroup values of one container. machineMemory is the node's memory capacity in
// bytes, which the OOM score of a Burstable pod depends on.
func Container(pod *corev1.Pod, container *corev1.Container, machineMemory int64) *runtimeapi.LinuxContainerResources {
	limits := container.Resources.Limits
	cpu, memory := limits.Cpu(), limits.Memory()
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		// A container without a limit of its own may use what the pod as a whole may.
		if cpu.IsZero() {
			cpu = pod.Spec.Resources.Limits.Cpu()
		}
		if memory.IsZero() {
			memory = pod.Spec.Resources.Limits.Memory()
		}
	}
	result := linux(requestOf(container.Resources.Requests), cpu, memory)
	result.OomScoreAdj = OOMScoreAdj(pod, container, machineMemory)
	result.HugepageLimits = hugePages(pod, container)
	return result
}

// Sandbox returns the sums over the pod's containers, without overhead, for the runtime's information.
func Sandbox(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	limits := resourcehelper.PodLimits(pod, options)
	return linux(requestOf(resourcehelper.PodRequests(pod, options)), limits.Cpu(), limits.Memory())
}

// Overhead returns the pod's overhead; an empty value when it has none.
func Overhead(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	if pod.Spec.Overhead == nil {
		return &runtimeapi.LinuxContainerResources{}
	}
	cpu := pod.Spec.Overhead.Cpu()
	return linux(cpu, cpu, pod.Spec.Overhead.Memory())
}

// QOS returns the pod's class: what its status says, else what its resources say.
func QOS(pod *corev1.Pod) corev1.PodQOSClass { return qos.GetPodQOS(pod) }

// OOMScoreAdj returns how gladly the kernel should kill the container's processes when memory runs out,
// from -997 (never) to 1000.
func OOMScoreAdj(pod *corev1.Pod, container *corev1.Container, machineMemory int64) int64 {
	return int64(kubeletqos.GetContainerOOMScoreAdjust(pod, container, machineMemory))
}

// CgroupParent returns the path of the pod's cgroup below root, in kubelet's layout: <root>/pod<uid> for
// Guaranteed pods, <root>/burstable/pod<uid> and <root>/besteffort/pod<uid> for the others.
func CgroupParent(root string, pod *corev1.Pod) string {
	name := "pod" + string(pod.UID)
	switch QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return path.Join(root, name)
	case corev1.PodQOSBurstable:
		return path.Join(root, "burstable", name)
	default:
		return path.Join(root, "besteffort", name)
	}
}

// requestOf is the CPU request, or nil where the list has none: that is another thing than zero, because
// the limit then takes its place.
func requestOf(requests corev1.ResourceList) *resource.Quantity {
	if cpu, found := requests[corev1.ResourceCPU]; found {
		return &cpu
	}
	return nil
}

func linux(cpuRequest, cpuLimit, memoryLimit *resource.Quantity) *runtimeapi.LinuxContainerResources {
	if cpuRequest == nil {
		cpuRequest = cpuLimit
	}
	return &runtimeapi.LinuxContainerResources{
		CpuShares:          int64(shares(cpuRequest.MilliValue())),
		CpuQuota:           quota(cpuLimit.MilliValue()),
		CpuPeriod:          quotaPeriod,
		MemoryLimitInBytes: memoryLimit.Value(),
	}
}

// shares turns thousandths of a CPU into cgroup v1's weight. Nothing requested is the least weight, not
// the kernel's default.
func shares(milliCPU int64) uint64 {
	return uint64(min(max(milliCPU*sharesPerCPU/milliPerCPU, minShares), maxShares))
}

// quota turns thousandths of a CPU into microseconds per period; zero means no limit.
func quota(milliCPU int64) int64 {
	if milliCPU == 0 {
		return 0
	}
	return max(milliCPU*quotaPeriod/milliPerCPU, minQuota)
}

// hugePages lists a limit for each page size that the machine has; a size that nobody asked for is
// limited to nothing.
func hugePages(pod *corev1.Pod, container *corev1.Container) []*runtimeapi.HugepageLimit {
	wanted := map[string]uint64{}
	add := func(list corev1.ResourceList) {
		for name, amount := range list {
			if !corev1helper.IsHugePageResourceName(name) {
				continue
			}
			size, err := corev1helper.HugePageSizeFromResourceName(name)
			if err != nil {
				continue // validation lets no such name pass
			}
			if unit, err := corev1helper.HugePageUnitSizeFromByteSize(size.Value()); err == nil {
				wanted[unit] = uint64(amount.Value())
			}
		}
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		add(pod.Spec.Resources.Limits)
	}
	add(container.Resources.Limits)

	var limits []*runtimeapi.HugepageLimit
	for _, size := range cgroups.HugePageSizes() {
		limits = append(limits, &runtimeapi.HugepageLimit{PageSize: size, Limit: wanted[size]})
	}
	return limits
}
