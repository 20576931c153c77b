package resources

import (
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container returns the cgroup values of one container. machineMemory is the node's memory capacity in
// bytes, which the OOM score of a Burstable pod depends on.
func Container(pod *corev1.Pod, container *corev1.Container, machineMemory int64) *runtimeapi.LinuxContainerResources {
	panic("not implemented")
}

// Sandbox returns the sums over the pod's containers, without overhead, for the runtime's information.
func Sandbox(pod *corev1.Pod) *runtimeapi.LinuxContainerResources { panic("not implemented") }

// Overhead returns the pod's overhead; an empty value when it has none.
func Overhead(pod *corev1.Pod) *runtimeapi.LinuxContainerResources { panic("not implemented") }

// Pod is the values of a pod's own cgroup. Nil means: leave the kernel's default.
type Pod struct {
	// CPUShares is cgroup v1's weight, at least 2.
	CPUShares *uint64
	// CPUQuota is the run time per period in microseconds; CPUPeriod is that period.
	CPUQuota  *int64
	CPUPeriod *uint64
	// Memory is the limit in bytes.
	Memory *int64
	// HugePageLimits are bytes by page size ("2Mi" is "2MB" here).
	HugePageLimits map[string]int64
}

// PodOf returns the values of the pod's cgroup: the sum over its containers, as its QoS class demands.
func PodOf(pod *corev1.Pod) Pod { panic("not implemented") }

// QOS returns the pod's class: what its status says, else what its resources say.
func QOS(pod *corev1.Pod) corev1.PodQOSClass { panic("not implemented") }

// OOMScoreAdj returns how gladly the kernel should kill the container's processes when memory runs out,
// from -997 (never) to 1000.
func OOMScoreAdj(pod *corev1.Pod, container *corev1.Container, machineMemory int64) int64 {
	panic("not implemented")
}

// CgroupParent returns the path of the pod's cgroup below root, in kubelet's layout: <root>/pod<uid> for
// Guaranteed pods, <root>/burstable/pod<uid> and <root>/besteffort/pod<uid> for the others.
func CgroupParent(root string, pod *corev1.Pod) string { panic("not implemented") }
