package resources_test

import (
	"fmt"
	"math/rand"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	kubeletqos "k8s.io/kubernetes/pkg/kubelet/qos"
	"k8s.io/utils/ptr"

	"drayage.dev/agent/resources"
)

const machine = int64(16 << 30)

var _ = Describe("differential against kubelet's container manager", func() {
	It("agrees on pod cgroups, shares, quotas and OOM scores for random pods", func() {
		random := rand.New(rand.NewSource(GinkgoRandomSeed()))
		for i := range 5000 {
			pod := randomPod(random, i)
			ours := resources.PodOf(pod)
			theirs := cm.ResourceConfigForPod(pod, true, uint64(cm.QuotaPeriod), false, kubeletconfig.NoneMemoryReservationPolicy)
			Expect(ours.CPUShares).To(Equal(theirs.CPUShares), "%v", pod.Spec)
			Expect(ours.CPUQuota).To(Equal(theirs.CPUQuota), "%v", pod.Spec)
			Expect(ours.CPUPeriod).To(Equal(theirs.CPUPeriod), "%v", pod.Spec)
			Expect(ours.Memory).To(Equal(theirs.Memory), "%v", pod.Spec)
			Expect(ours.HugePageLimits).To(Equal(theirs.HugePageLimit))

			for j := range pod.Spec.Containers {
				container := &pod.Spec.Containers[j]
				values := resources.Container(pod, container, machine)
				cpu := container.Resources.Limits.Cpu()
				if pod.Spec.Resources != nil && cpu.IsZero() {
					cpu = pod.Spec.Resources.Limits.Cpu()
				}
				Expect(values.CpuQuota).To(Equal(cm.MilliCPUToQuota(cpu.MilliValue(), cm.QuotaPeriod)))
				request, found := container.Resources.Requests[corev1.ResourceCPU]
				if !found {
					request = *cpu
				}
				Expect(values.CpuShares).To(BeEquivalentTo(cm.MilliCPUToShares(request.MilliValue())))
				Expect(values.OomScoreAdj).To(BeEquivalentTo(kubeletqos.GetContainerOOMScoreAdjust(pod, container, machine)))
			}
		}
	})
})

var _ = Describe("Container", func() {
	It("limits CPU and memory to what the manifest says", func() {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{
			Requests: list("100m", "64Mi"), Limits: list("250m", "128Mi"),
		}}}}}
		values := resources.Container(pod, &pod.Spec.Containers[0], machine)
		Expect(values.CpuShares).To(BeEquivalentTo(102))
		Expect(values.CpuPeriod).To(BeEquivalentTo(100000))
		Expect(values.CpuQuota).To(BeEquivalentTo(25000))
		Expect(values.MemoryLimitInBytes).To(BeEquivalentTo(128 << 20))
		Expect(values.OomScoreAdj).To(BeEquivalentTo(997))
	})

	It("weighs a container without a request by its limit, and one with neither at least", func() {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "limited", Resources: corev1.ResourceRequirements{Limits: list("2", "1Gi")}}, {Name: "free"},
		}}}
		Expect(resources.Container(pod, &pod.Spec.Containers[0], machine).CpuShares).To(BeEquivalentTo(2048))
		Expect(resources.Container(pod, &pod.Spec.Containers[1], machine).CpuShares).To(BeEquivalentTo(2))
	})
})

var _ = Describe("CgroupParent", func() {
	It("follows the QoS class", func() {
		pod := &corev1.Pod{}
		pod.UID = "u"
		parent := func(class corev1.PodQOSClass) string {
			pod.Status.QOSClass = class
			return resources.CgroupParent("/drayage", pod)
		}
		Expect(parent(corev1.PodQOSGuaranteed)).To(Equal("/drayage/podu"))
		Expect(parent(corev1.PodQOSBurstable)).To(Equal("/drayage/burstable/podu"))
		Expect(parent(corev1.PodQOSBestEffort)).To(Equal("/drayage/besteffort/podu"))
	})
})

var _ = Describe("Sandbox and Overhead", func() {
	It("sums containers and keeps overhead apart", func() {
		pod := &corev1.Pod{Spec: corev1.PodSpec{
			Overhead: list("50m", "8Mi"),
			Containers: []corev1.Container{
				{Name: "a", Resources: corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}},
				{Name: "b", Resources: corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}},
			},
		}}
		Expect(resources.Sandbox(pod).CpuShares).To(BeEquivalentTo(2048))
		Expect(resources.Sandbox(pod).MemoryLimitInBytes).To(BeEquivalentTo(2 << 30))
		Expect(resources.Overhead(pod).CpuQuota).To(BeEquivalentTo(5000))
		Expect(resources.Overhead(&corev1.Pod{}).CpuQuota).To(BeZero())
	})
})

func list(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
	}
}

func randomList(random *rand.Rand) corev1.ResourceList {
	result := corev1.ResourceList{}
	if random.Intn(3) > 0 {
		result[corev1.ResourceCPU] = *resource.NewMilliQuantity(random.Int63n(4000), resource.DecimalSI)
	}
	if random.Intn(3) > 0 {
		result[corev1.ResourceMemory] = *resource.NewQuantity(random.Int63n(4<<30), resource.BinarySI)
	}
	if random.Intn(6) == 0 {
		result["hugepages-2Mi"] = *resource.NewQuantity(random.Int63n(8)<<21, resource.BinarySI)
	}
	return result
}

func randomPod(random *rand.Rand, i int) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.UID = types.UID(fmt.Sprint(i))
	container := func(name string) corev1.Container {
		c := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: randomList(random), Limits: randomList(random)}}
		if random.Intn(3) == 0 {
			c.Resources.Requests = c.Resources.Limits
		}
		return c
	}
	for n := range 1 + random.Intn(3) {
		pod.Spec.Containers = append(pod.Spec.Containers, container(fmt.Sprint("c", n)))
	}
	for n := range random.Intn(3) {
		c := container(fmt.Sprint("i", n))
		if random.Intn(2) == 0 {
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	if random.Intn(4) == 0 {
		pod.Spec.Overhead = randomList(random)
	}
	if random.Intn(6) == 0 {
		pod.Spec.Resources = &corev1.ResourceRequirements{Requests: randomList(random), Limits: randomList(random)}
	}
	return pod
}
