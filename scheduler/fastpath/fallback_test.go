package fastpath_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fwk "k8s.io/kube-scheduler/framework"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"drayage.dev/scheduler/fastpath"
)

var _ = Describe("upstream's path", func() {
	var c *cluster
	node := func(name, cpu string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
			Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"),
				corev1.ResourcePods: resource.MustParse("110"), "example.com/gpu": resource.MustParse("2"),
			}},
		}
	}
	start := func(ctx context.Context, changes ...func(*schedulerconfig.KubeSchedulerConfiguration)) {
		GinkgoHelper()
		var err error
		c, err = newCluster(ctx, true, changes...)
		Expect(err).NotTo(HaveOccurred())
		c.scheduler.Cache.AddNode(c.logger(), node("big", "8"))
		c.scheduler.Cache.AddNode(c.logger(), node("small", "1"))
	}
	mirrored := func(name string) *framework.NodeInfo {
		GinkgoHelper()
		info, err := c.engine.Mirror().NodeInfos().Get(name)
		Expect(err).NotTo(HaveOccurred())
		return info.(*framework.NodeInfo)
	}
	// takes expects one decision to take a path.
	takes := func(ctx context.Context, path, reason string, changes ...func(*corev1.Pod)) string {
		GinkgoHelper()
		pod := c.stamp(benchPod())
		for _, change := range changes {
			change(pod)
		}
		before := fastpath.Decided(path, reason)
		chosen, err := c.decide(ctx, pod)
		Expect(err).NotTo(HaveOccurred())
		Expect(fastpath.Decided(path, reason)).To(Equal(before + 1))
		return chosen
	}

	It("is for pods with devices and unknown volumes", func(ctx context.Context) {
		start(ctx)
		Expect(takes(ctx, "fast", "")).To(Equal("big"))
		Expect(takes(ctx, "upstream", "extended-resources", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		})).To(Equal("big"))
		Expect(takes(ctx, "upstream", "volumes", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nfs", Path: "/"}}}}
		})).To(Equal("big"))
		Expect(takes(ctx, "fast", "", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		})).To(Equal("big"))
	})

	It("judges a node that is promised to a pod, and no other", func(ctx context.Context) {
		start(ctx)
		priority := int32(5)
		pod := c.stamp(benchPod())
		pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("8")
		pod.Spec.Priority = &priority
		pod.Status.NominatedNodeName = "big"
		Expect(c.know(pod)).To(Succeed())
		c.scheduler.SchedulingQueue.Add(ctx, pod)
		Expect(takes(ctx, "fast", "")).To(Equal("small"), "it yields")
		Expect(takes(ctx, "fast", "", func(p *corev1.Pod) {
			more := priority + 1
			p.Spec.Priority = &more
		})).To(Equal("big"), "it need not yield")
		Expect(takes(ctx, "upstream", "nominated", func(p *corev1.Pod) { p.Status.NominatedNodeName = "big" })).To(Equal("small"))
		c.scheduler.SchedulingQueue.DeleteNominatedPodIfExists(pod)
		Expect(takes(ctx, "fast", "")).To(Equal("big"))
	})

	It("is for profiles with scores that only upstream computes", func(ctx context.Context) {
		start(ctx, func(config *schedulerconfig.KubeSchedulerConfiguration) {
			for _, plugin := range config.Profiles[0].PluginConfig {
				if args, ok := plugin.Args.(*schedulerconfig.NodeResourcesFitArgs); ok {
					args.ScoringStrategy.Type = schedulerconfig.RequestedToCapacityRatio
					args.ScoringStrategy.RequestedToCapacityRatio = &schedulerconfig.RequestedToCapacityRatioParam{
						Shape: []schedulerconfig.UtilizationShapePoint{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}},
					}
				}
			}
		})
		takes(ctx, "upstream", "profile")
	})

	It("corrects a wrong decision, and an alarm counts it", func(ctx context.Context) {
		start(ctx)
		Expect(takes(ctx, "fast", "")).To(Equal("big"))
		// A fault: the node is full, but nothing says that it changed.
		mirrored("big").Requested.MilliCPU = 8000
		alarms := fastpath.Disagreed("refused")
		Expect(takes(ctx, "upstream", "disagreed")).To(Equal("big"), "as the cache has it")
		Expect(fastpath.Disagreed("refused")).To(Equal(alarms + 1))
		Expect(takes(ctx, "fast", "")).To(Equal("big"), "all is read anew")
	})

	It("confirms every pod with required spread, not only a sample", func(ctx context.Context) {
		start(ctx)
		spread := func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
			}}
		}
		placed := c.stamp(benchPod())
		spread(placed)
		_, err := c.place(placed, takes(ctx, "fast", "", spread))
		Expect(err).NotTo(HaveOccurred())
		c.engine.LoosenSpread()
		Expect(takes(ctx, "upstream", "disagreed", spread)).To(Equal("small"))
	})

	It("takes no alarm from room that came up meanwhile", func(ctx context.Context) {
		start(ctx)
		large := benchPod()
		large.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("5")
		placed, err := c.place(c.stamp(large), takes(ctx, "fast", ""))
		Expect(err).NotTo(HaveOccurred())
		Expect(c.begin()).To(Succeed())
		Expect(c.scheduler.Cache.ForgetPod(c.logger(), placed)).To(Succeed())
		info, err := framework.NewPodInfo(c.stamp(large))
		Expect(err).NotTo(HaveOccurred())
		alarms, upstream := fastpath.Disagreed("missed"), fastpath.Decided("upstream", "unplaceable")
		result, err := c.scheduler.SchedulePod(ctx, c.framework, framework.NewCycleState(), &framework.QueuedPodInfo{PodInfo: info})
		Expect(err).NotTo(HaveOccurred())
		Expect(result.SuggestedHost).To(Equal("big"))
		Expect(fastpath.Decided("upstream", "unplaceable")).To(Equal(upstream + 1))
		Expect(fastpath.Disagreed("missed")).To(Equal(alarms))
	})

	It("has its snapshot refreshed now and then, also when it is not asked", func(ctx context.Context) {
		start(ctx)
		for range fastpath.RefreshEvery {
			Expect(c.begin()).To(Succeed())
		}
		Expect(contents(c.snapshot)).To(BeEmpty(), "nobody has asked")
		Expect(c.begin()).To(Succeed())
		Expect(contents(c.snapshot)).To(HaveLen(2))
	})

	It("confirms every pod that others on its node could keep away, not only a sample", func(ctx context.Context) {
		start(ctx)
		apart := func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
					TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
				}},
			}}
		}
		Expect(takes(ctx, "fast", "", apart)).To(Equal("big"))
		// A fault: such a pod is there, but nothing says so.
		other, err := framework.NewPodInfo(c.stamp(benchPod()))
		Expect(err).NotTo(HaveOccurred())
		mirrored("big").Pods = []fwk.PodInfo{other}
		Expect(takes(ctx, "upstream", "disagreed", apart)).To(Equal("big"), "as the cache has it")
	})
})
