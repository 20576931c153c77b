package scheduler_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	fwk "k8s.io/kube-scheduler/framework"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/upstream"
	"drayage.dev/scheduler"
)

// The oracle is upstream's framework with upstream's plugins, run directly on upstream's objects of the
// same cluster: it shares no informer, client or conversion with the scheduler under test, except the
// conversions of package upstream.
var _ = Describe("the decisions, against upstream's framework", func() {
	seeds := []uint64{1, 2, uint64(time.Now().UnixNano())} // two fixed ones, and one that is printed
	for i, seed := range seeds {
		It(fmt.Sprintf("are upstream's on random cluster %d", i+1), func(ctx context.Context) {
			GinkgoWriter.Printf("seed %d\n", seed)
			random := rand.New(rand.NewPCG(seed, 1))
			DeferCleanup(clean)
			startScheduler(scheduler.Config{})
			set := addReplicaSet(ctx, "set", map[string]string{"set": "yes"})
			for n := range 8 {
				addNode(ctx, fmt.Sprintf("node-%d", n), randomNode(random))
			}
			// Everything is one pod at a time, so that the oracle sees what the scheduler saw.
			for n := range 25 {
				pods, nodes := observe(ctx)
				pod := newPod(fmt.Sprintf("pod-%d", n), randomPod(random, set))
				// The oracle judges the pod with the defaults of admission, as the scheduler does.
				admitted := pod.DeepCopy()
				Expect(admin.Create(ctx, admitted, client.DryRunAll)).To(Succeed())
				best := newOracle(ctx, pods, nodes, set).best(ctx, admitted)
				Expect(admin.Create(ctx, pod)).To(Succeed())
				if len(best) == 0 {
					refusal(ctx, pod)
					end(ctx, pod)
					continue
				}
				Expect(best).To(ContainElement(nodeOf(ctx, pod)), "pod %d of seed %d", n, seed)
				// A binding in flight counts for the scheduler already; the condition shows that it has landed.
				Eventually(func() *corev1.PodCondition { return scheduledCondition(get(ctx, pod)) }, patience).ShouldNot(BeNil())
			}
		})
	}
})

func observe(ctx context.Context) (pods []*dcorev1.Pod, nodes []*dcorev1.Node) {
	GinkgoHelper()
	podList, nodeList := &dcorev1.PodList{}, &dcorev1.NodeList{}
	Expect(admin.List(ctx, podList, client.InNamespace(namespace))).To(Succeed())
	Expect(admin.List(ctx, nodeList)).To(Succeed())
	for i := range podList.Items {
		pods = append(pods, &podList.Items[i])
	}
	for i := range nodeList.Items {
		nodes = append(nodes, &nodeList.Items[i])
	}
	return pods, nodes
}

func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

func randomNode(random *rand.Rand) func(*dcorev1.Node) {
	return func(n *dcorev1.Node) {
		n.Labels[corev1.LabelTopologyZone] = pick(random, "a", "b", "c")
		n.Labels["disk"] = pick(random, "ssd", "hdd")
		n.Status.Allocatable[corev1.ResourceCPU] = *resourceOf(pick(random, "1", "2", "4"))
		n.Status.Allocatable[corev1.ResourceMemory] = *resourceOf(pick(random, "2Gi", "4Gi", "8Gi"))
		n.Status.Allocatable[corev1.ResourcePods] = *resourceOf(pick(random, "4", "110"))
		if random.IntN(2) == 0 {
			// One size everywhere: upstream's cache believes the first node that it hears of.
			n.Status.Images = []corev1.ContainerImage{{Names: []string{"web:1"}, SizeBytes: 700 << 20}}
		}
		if random.IntN(4) == 0 {
			n.Spec.Taints = []corev1.Taint{{
				Key: "dedicated", Effect: pick(random, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule),
			}}
		}
	}
}

// randomPod draws constraints independently of each other, so that they meet in all combinations.
func randomPod(random *rand.Rand, set *dappsv1.ReplicaSet) func(*dcorev1.Pod) {
	return func(p *dcorev1.Pod) {
		some := func() bool { return random.IntN(3) == 0 }
		p.Labels["app"] = pick(random, "web", "cache")
		selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(random, "web", "cache")}}
		withRequest(pick(random, "50m", "200m", "900m"), pick(random, "64Mi", "512Mi", "1Gi"))(p)
		p.Spec.Affinity = &corev1.Affinity{}
		if some() {
			p.Labels["set"] = "yes"
			withOwner(set, dappsv1.GroupVersion.String(), "ReplicaSet")(p)
		} else if some() {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1 + random.Int32N(2), LabelSelector: selector,
				TopologyKey:       pick(random, corev1.LabelTopologyZone, corev1.LabelHostname),
				WhenUnsatisfiable: pick(random, corev1.DoNotSchedule, corev1.ScheduleAnyway),
			}}
		}
		if some() {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
		}
		if some() {
			p.Spec.NodeSelector = map[string]string{"disk": pick(random, "ssd", "hdd")}
		}
		if some() {
			p.Spec.HostNetwork = true
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
		}
		term := corev1.PodAffinityTerm{
			LabelSelector: selector, TopologyKey: pick(random, corev1.LabelTopologyZone, corev1.LabelHostname),
		}
		switch random.IntN(6) {
		case 0:
			p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term},
			}
		case 1:
			p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: term}},
			}
		case 2:
			p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 50, PodAffinityTerm: term}},
			}
		}
	}
}

// withoutOracle are plugins that look at volumes and devices only, of which the random pods have none.
var withoutOracle = []string{
	"VolumeBinding", "VolumeRestrictions", "VolumeZone", "NodeVolumeLimits", "DynamicResources", "DefaultPreemption",
}

// oracle is upstream's framework over a snapshot.
type oracle struct {
	framework framework.Framework
	snapshot  *cache.Snapshot
}

func newOracle(ctx context.Context, pods []*dcorev1.Pod, nodes []*dcorev1.Node, set *dappsv1.ReplicaSet) *oracle {
	GinkgoHelper()
	metrics.Register()
	configuration, err := latest.Default()
	Expect(err).NotTo(HaveOccurred())
	profile := configuration.Profiles[0]
	profile.Plugins.MultiPoint.Enabled = slices.DeleteFunc(profile.Plugins.MultiPoint.Enabled,
		func(p schedulerconfig.Plugin) bool { return slices.Contains(withoutOracle, p.Name) })
	profile.PluginConfig = slices.DeleteFunc(profile.PluginConfig,
		func(p schedulerconfig.PluginConfig) bool { return slices.Contains(withoutOracle, p.Name) })

	var theirPods []*corev1.Pod
	for _, pod := range pods {
		theirPods = append(theirPods, oraclePod(pod))
	}
	var theirNodes []*corev1.Node
	for _, node := range nodes {
		theirNodes = append(theirNodes, upstream.Node(node))
	}
	namespaceObject := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	fakes := fake.NewClientset([]runtime.Object{namespaceObject, upstream.ReplicaSet(set)}...)
	factory := informers.NewSharedInformerFactory(fakes, 0)
	o := &oracle{snapshot: cache.NewSnapshot(theirPods, theirNodes)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	DeferCleanup(cancel)
	o.framework, err = frameworkruntime.NewFramework(ctx, plugins.NewInTreeRegistry(), &profile,
		frameworkruntime.WithClientSet(fakes),
		frameworkruntime.WithInformerFactory(factory),
		frameworkruntime.WithSnapshotSharedLister(o.snapshot),
	)
	Expect(err).NotTo(HaveOccurred())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return o
}

// oraclePod is the pod as upstream would have it: its controller is of upstream's group.
func oraclePod(p *dcorev1.Pod) *corev1.Pod {
	pod := upstream.Pod(p.DeepCopy())
	for i := range pod.OwnerReferences {
		pod.OwnerReferences[i].APIVersion = "apps/v1"
	}
	return pod
}

// best returns the nodes of the highest score among those that pass, empty when none does.
func (o *oracle) best(ctx context.Context, p *dcorev1.Pod) []string {
	GinkgoHelper()
	pod := oraclePod(p)
	state := framework.NewCycleState()
	result, status, _ := o.framework.RunPreFilterPlugins(ctx, state, pod)
	if !status.IsSuccess() {
		Expect(status.IsRejected()).To(BeTrue(), status.Message())
		return nil
	}
	all, err := o.snapshot.NodeInfos().List()
	Expect(err).NotTo(HaveOccurred())
	var feasible []fwk.NodeInfo
	for _, node := range all {
		if !result.AllNodes() && !result.NodeNames.Has(node.Node().Name) {
			continue
		}
		if o.framework.RunFilterPlugins(ctx, state, pod, node).IsSuccess() {
			feasible = append(feasible, node)
		}
	}
	if len(feasible) == 0 {
		return nil
	}
	Expect(o.framework.RunPreScorePlugins(ctx, state, pod, feasible).IsSuccess()).To(BeTrue())
	scores, status := o.framework.RunScorePlugins(ctx, state, pod, feasible)
	Expect(status.IsSuccess()).To(BeTrue(), status.Message())
	var best []string
	var top int64 = -1
	for _, score := range scores {
		switch {
		case score.TotalScore > top:
			best, top = []string{score.Name}, score.TotalScore
		case score.TotalScore == top:
			best = append(best, score.Name)
		}
	}
	return best
}
