package resources

import (
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// Pod is the values of a pod's own cgroup. Nil means: leave the kernel's default.
type Pod struct {
	// CPUShares is cgroup v1's weight, at least 2.
	CPUShares *uint64
	// CPUQuota is the run time per period in microseconds, zero for no limit; CPUPeriod is that period.
	CPUQuota  *int64
	CPUPeriod *uint64
	// Memory is the limit in bytes, zero for no limit.
	Memory *int64
	// HugePageLimits are bytes by page size in bytes.
	HugePageLimits map[int64]int64
}

// PodOf returns the values of the pod's cgroup: the sum over its containers and its overhead. A sum of
// limits holds only where every container has one.
func PodOf(pod *corev1.Pod) Pod {
	cpuLimited, memoryLimited := true, true
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{
		ContainerFn: func(list corev1.ResourceList, _ resourcehelper.ContainerType) {
			cpuLimited = cpuLimited && !list.Cpu().IsZero()
			memoryLimited = memoryLimited && !list.Memory().IsZero()
		},
	})
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		cpuLimited = cpuLimited || !pod.Spec.Resources.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited || !pod.Spec.Resources.Limits.Memory().IsZero()
	}

	weight := shares(requests.Cpu().MilliValue())
	result := Pod{CPUShares: &weight, HugePageLimits: pageLimits(requests)}
	switch QOS(pod) {
	case corev1.PodQOSGuaranteed:
		cpuLimited, memoryLimited = true, true
	case corev1.PodQOSBestEffort:
		weight, cpuLimited, memoryLimited = minShares, false, false
	}
	if cpuLimited {
		runtime, period := quota(limits.Cpu().MilliValue()), uint64(quotaPeriod)
		result.CPUQuota, result.CPUPeriod = &runtime, &period
	}
	if memoryLimited {
		bytes := limits.Memory().Value()
		result.Memory = &bytes
	}
	return result
}

func pageLimits(list corev1.ResourceList) map[int64]int64 {
	limits := map[int64]int64{}
	for name, amount := range list {
		if corev1helper.IsHugePageResourceName(name) {
			if size, err := corev1helper.HugePageSizeFromResourceName(name); err == nil {
				limits[size.Value()] += amount.Value()
			}
		}
	}
	return limits
}
