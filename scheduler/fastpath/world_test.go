package fastpath_test

import (
	"context"
	"fmt"
	"math/rand/v2"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fwk "k8s.io/kube-scheduler/framework"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"drayage.dev/scheduler/plugins/startup"
)

// world is a random cluster with templates of random pods.
type world struct {
	*cluster
	random    *rand.Rand
	nodes     []*corev1.Node
	placed    []*corev1.Pod
	promises  []*corev1.Pod // pods that nodes are promised to
	templates []*corev1.Pod
	rack      int
	merged    int // comparisons of merged nodes with the whole cluster
	// uniform nodes are of one size, and many of them are alike; ownRacks gives each node a rack.
	uniform, ownRacks bool
}

func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

func (w *world) chance(percent int) bool { return w.random.IntN(100) < percent }

func newWorld(ctx context.Context, seed uint64) *world {
	w := &world{random: rand.New(rand.NewPCG(seed, 1))}
	w.uniform, w.ownRacks = w.chance(50), w.chance(40)
	var err error
	w.cluster, err = newCluster(ctx, true, w.profileChange)
	Expect(err).NotTo(HaveOccurred())
	yes := true
	for _, name := range []string{"default", "other"} {
		Expect(w.know(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": pick(w.random, "a", "b")}}})).To(Succeed())
	}
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "set", UID: "set"},
		Spec:       appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"set": "yes"}}},
	}
	Expect(w.know(set)).To(Succeed())
	Expect(w.know(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web", "tier": "front"}},
	})).To(Succeed())
	for range 2 + w.random.IntN(30) {
		w.addNode()
	}
	for range 3 + w.random.IntN(6) {
		template := w.randomPod()
		if len(w.templates) > 0 && w.chance(30) {
			// Two templates that differ in labels only.
			template = w.templates[len(w.templates)-1].DeepCopy()
			template.Labels["app"], template.Labels["tier"] = pick(w.random, "web", "cache"), pick(w.random, "front", "back")
		}
		if w.chance(40) && template.Namespace == "default" {
			template.Labels["set"] = "yes"
			template.OwnerReferences = []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set.Name, UID: set.UID, Controller: &yes,
			}}
		}
		if w.chance(30) {
			priority := int32(10)
			template.Spec.Priority = &priority
		}
		w.templates = append(w.templates, template)
	}
	// Pods that are there already, of other kinds than those to come.
	for range w.random.IntN(40) * w.random.IntN(2) {
		pod := w.stamp(w.randomPod())
		w.adopt(pod, w.nodes[w.random.IntN(len(w.nodes))].Name)
	}
	return w
}

// profileChange varies what a profile can vary on the fast path.
func (w *world) profileChange(c *schedulerconfig.KubeSchedulerConfiguration) {
	if w.chance(30) {
		enabled := &c.Profiles[0].Plugins.MultiPoint.Enabled
		*enabled = append(*enabled, schedulerconfig.Plugin{Name: startup.Name, Weight: 5})
	}
	for _, plugin := range c.Profiles[0].PluginConfig {
		switch args := plugin.Args.(type) {
		case *schedulerconfig.NodeResourcesFitArgs:
			if w.chance(25) {
				args.ScoringStrategy.Type = schedulerconfig.MostAllocated
				args.ScoringStrategy.Resources[0].Weight = 3
			}
		case *schedulerconfig.InterPodAffinityArgs:
			args.HardPodAffinityWeight = pick(w.random, int32(0), 1, 50)
			args.IgnorePreferredTermsOfExistingPods = w.chance(25)
		case *schedulerconfig.PodTopologySpreadArgs:
			if w.chance(20) {
				args.DefaultingType = schedulerconfig.ListDefaulting
				args.DefaultConstraints = []corev1.TopologySpreadConstraint{{
					MaxSkew: 2, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: pick(w.random, corev1.ScheduleAnyway, corev1.DoNotSchedule),
				}}
			}
		}
	}
}

func (w *world) addNode() {
	w.serial++
	node := w.randomNode(fmt.Sprintf("node-%d", w.serial))
	w.nodes = append(w.nodes, node)
	w.scheduler.Cache.AddNode(w.logger(), node)
}

func (w *world) randomNode(name string) *corev1.Node {
	r := w.random
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": pick(r, "ssd", "hdd")}}}
	if w.chance(95) {
		node.Labels[corev1.LabelHostname] = name
	}
	if w.chance(90) {
		node.Labels[corev1.LabelTopologyZone] = pick(r, "a", "b", "c")
	}
	if w.ownRacks || w.chance(80) {
		// Some racks have one node, some have more.
		if w.ownRacks || w.chance(60) {
			w.rack++
		}
		node.Labels["rack"] = fmt.Sprint(w.rack)
	}
	if w.chance(20) {
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: pick(r, corev1.ConditionTrue, corev1.ConditionFalse)}}
	}
	if w.uniform {
		node.Labels["disk"] = "ssd"
		node.Status.Allocatable = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
			corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		}
		return node
	}
	node.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse(pick(r, "1", "2", "4")),
		corev1.ResourceMemory:           resource.MustParse(pick(r, "2Gi", "4Gi", "8Gi")),
		corev1.ResourcePods:             resource.MustParse(pick(r, "4", "12", "110")),
		corev1.ResourceEphemeralStorage: resource.MustParse(pick(r, "10Gi", "100Gi")),
	}
	if w.chance(5) {
		delete(node.Status.Allocatable, corev1.ResourceMemory)
	}
	for _, image := range []string{"web:1", "cache:latest"} {
		if w.chance(40) {
			node.Status.Images = append(node.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: 700 << 20})
		}
	}
	node.Spec.Unschedulable = w.chance(5)
	for _, key := range []string{"dedicated", "spot", "slow"} {
		if w.chance(12) {
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{
				Key: key, Effect: pick(r, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectPreferNoSchedule),
			})
		}
	}
	return node
}

func (w *world) adopt(pod *corev1.Pod, node string) {
	placed, err := w.place(pod, node)
	Expect(err).NotTo(HaveOccurred())
	if w.chance(10) { // another cycle begins meanwhile
		// On both sides: how many nodes have an image is as of when a node was copied.
		Expect(w.begin()).To(Succeed())
		Expect(w.oracle.begin()).To(Succeed())
	}
	switch {
	case w.chance(8): // the binding was refused
		Expect(w.scheduler.Cache.ForgetPod(w.logger(), placed)).To(Succeed())
		return
	case w.chance(8): // somebody else was faster
		placed = placed.DeepCopy()
		placed.Spec.NodeName = w.nodes[w.random.IntN(len(w.nodes))].Name
	}
	// The watch confirms it.
	Expect(w.scheduler.Cache.AddPod(w.logger(), placed)).To(Succeed())
	w.placed = append(w.placed, placed)
}

// change does to the cluster what happens between decisions.
func (w *world) change() {
	switch w.random.IntN(12) {
	case 0, 1: // some pods end
		for range min(len(w.placed), 1+w.random.IntN(8)) {
			i := w.random.IntN(len(w.placed))
			Expect(w.scheduler.Cache.RemovePod(w.logger(), w.placed[i])).To(Succeed())
			w.placed = append(w.placed[:i], w.placed[i+1:]...)
		}
	case 2: // a pod starts to end
		w.updatePod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })
	case 10: // a pod has started
		w.updatePod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning })
	case 3: // a pod gets other labels
		w.updatePod(func(p *corev1.Pod) { p.Labels["app"] = pick(w.random, "web", "cache") })
	case 4: // a node changes, perhaps moves
		w.updateNode(func(n *corev1.Node) *corev1.Node { return w.randomNode(n.Name) })
	case 5, 6: // a node reports, and nothing changed but its taints and images, perhaps
		w.updateNode(func(n *corev1.Node) *corev1.Node {
			same := n.DeepCopy()
			if w.chance(50) {
				same.Spec.Taints = nil
			}
			switch { // an image was pulled, or all are gone
			case w.chance(20):
				same.Status.Images = []corev1.ContainerImage{{Names: []string{pick(w.random, "web:1", "cache:latest")}, SizeBytes: 700 << 20}}
			case w.chance(40):
				same.Status.Images = nil
			}
			return same
		})
	case 7:
		if w.chance(30) {
			w.addNode()
		}
	case 9, 11:
		w.promise()
	case 8:
		if w.chance(20) && len(w.nodes) > 2 {
			i := w.random.IntN(len(w.nodes))
			Expect(w.scheduler.Cache.RemoveNode(w.logger(), w.nodes[i])).To(Succeed())
			w.nodes = append(w.nodes[:i], w.nodes[i+1:]...)
		}
	}
}

// promise promises a node to a pod, or takes a promise back.
func (w *world) promise() {
	if len(w.promises) > 0 && w.chance(20*len(w.promises)) {
		pod := w.promises[0]
		w.promises = w.promises[1:]
		w.scheduler.SchedulingQueue.DeleteNominatedPodIfExists(pod)
		return
	}
	pod := w.stamp(w.randomPod())
	priority := pick(w.random, int32(0), 5, 20)
	if w.chance(50) { // nothing else fits beside it
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}
	}
	pod.Spec.Priority = &priority
	Expect(w.know(pod)).To(Succeed())
	info, err := framework.NewPodInfo(pod)
	Expect(err).NotTo(HaveOccurred())
	w.scheduler.SchedulingQueue.AddNominatedPod(w.logger(), info, &fwk.NominatingInfo{
		NominatingMode: fwk.ModeOverride, NominatedNodeName: w.nodes[w.random.IntN(len(w.nodes))].Name,
	})
	w.promises = append(w.promises, pod)
}

func (w *world) updatePod(change func(*corev1.Pod)) {
	if len(w.placed) == 0 {
		return
	}
	i := w.random.IntN(len(w.placed))
	changed := w.placed[i].DeepCopy()
	change(changed)
	Expect(w.scheduler.Cache.UpdatePod(w.logger(), w.placed[i], changed)).To(Succeed())
	w.placed[i] = changed
}

func (w *world) updateNode(change func(*corev1.Node) *corev1.Node) {
	i := w.random.IntN(len(w.nodes))
	changed := change(w.nodes[i])
	w.scheduler.Cache.UpdateNode(w.logger(), w.nodes[i], changed)
	w.nodes[i] = changed
}

// randomPod draws constraints independently of each other, so that they meet in all combinations.
func (w *world) randomPod() *corev1.Pod {
	r := w.random
	pod := newTemplate(map[string]string{"app": pick(r, "web", "cache"), "tier": pick(r, "front", "back")})
	if w.chance(15) {
		pod.Namespace = "other"
	}
	container := &pod.Spec.Containers[0]
	container.Image = pick(r, "web:1", "cache", "none:1")
	if w.chance(85) {
		container.Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(pick(r, "50m", "200m", "900m")), corev1.ResourceMemory: resource.MustParse(pick(r, "64Mi", "512Mi", "1Gi")),
		}
		if w.chance(20) {
			container.Resources.Requests[corev1.ResourceEphemeralStorage] = resource.MustParse("4Gi")
		}
		if w.chance(20) {
			delete(container.Resources.Requests, pick(r, corev1.ResourceCPU, corev1.ResourceMemory))
		}
	}
	if w.chance(20) {
		pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "web:1", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")},
		}}}
	}
	if w.chance(15) {
		container.Ports = []corev1.ContainerPort{{HostPort: pick(r, int32(80), 8080), ContainerPort: 80}}
	}
	if w.chance(40) {
		pod.Spec.Tolerations = []corev1.Toleration{{Key: pick(r, "dedicated", "spot", ""), Operator: corev1.TolerationOpExists}}
	}
	pod.Spec.Affinity = &corev1.Affinity{}
	w.nodeAffinity(pod)
	if w.chance(50) {
		for range 1 + r.IntN(3) {
			pod.Spec.TopologySpreadConstraints = append(pod.Spec.TopologySpreadConstraints, w.randomSpread())
		}
	}
	w.podAffinity(pod)
	return pod
}

func (w *world) nodeAffinity(pod *corev1.Pod) {
	r := w.random
	switch r.IntN(8) {
	case 0:
		pod.Spec.NodeSelector = map[string]string{"disk": pick(r, "ssd", "hdd")}
	case 1:
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: 30, Preference: term(corev1.LabelTopologyZone, "a", "b")}, {Weight: 70, Preference: term("disk", "ssd")},
		}}
	case 2:
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{term(corev1.LabelTopologyZone, "a", "b")},
		}}
	case 3:
		name := w.nodes[r.IntN(len(w.nodes))].Name
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: 100, Preference: term(corev1.LabelHostname, name)},
		}}
		if w.chance(30) {
			pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
					{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name}},
				}}},
			}
		}
	}
}

func term(key string, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values},
	}}
}

func (w *world) topologyKey() string {
	return pick(w.random, corev1.LabelTopologyZone, corev1.LabelTopologyZone, corev1.LabelHostname, "rack")
}

func (w *world) selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(w.random, "web", "cache")}}
}

func (w *world) randomSpread() corev1.TopologySpreadConstraint {
	r := w.random
	c := corev1.TopologySpreadConstraint{
		MaxSkew: 1 + r.Int32N(3), TopologyKey: w.topologyKey(), LabelSelector: w.selector(),
		WhenUnsatisfiable: pick(r, corev1.DoNotSchedule, corev1.ScheduleAnyway),
	}
	if w.chance(20) && c.WhenUnsatisfiable == corev1.DoNotSchedule {
		domains := 2 + r.Int32N(3)
		c.MinDomains = &domains
	}
	if w.chance(30) {
		policy := pick(r, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		c.NodeAffinityPolicy = &policy
	}
	if w.chance(30) {
		policy := pick(r, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		c.NodeTaintsPolicy = &policy
	}
	if w.chance(25) {
		c.MatchLabelKeys = []string{"tier"}
	}
	return c
}

func (w *world) podAffinity(pod *corev1.Pod) {
	terms := func() []corev1.PodAffinityTerm {
		var terms []corev1.PodAffinityTerm
		for range 1 + w.random.IntN(2) {
			t := corev1.PodAffinityTerm{LabelSelector: w.selector(), TopologyKey: w.topologyKey()}
			if w.chance(20) {
				t.Namespaces = []string{"other"}
			} else if w.chance(15) {
				t.NamespaceSelector = &metav1.LabelSelector{}
			} else if w.chance(4) {
				t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
			}
			terms = append(terms, t)
		}
		return terms
	}
	weighted := func() []corev1.WeightedPodAffinityTerm {
		var all []corev1.WeightedPodAffinityTerm
		for _, t := range terms() {
			all = append(all, corev1.WeightedPodAffinityTerm{Weight: 1 + w.random.Int32N(100), PodAffinityTerm: t})
		}
		return all
	}
	if w.chance(12) {
		pod.Spec.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms()}
	}
	if w.chance(20) {
		pod.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms()}
	}
	if w.chance(20) {
		if pod.Spec.Affinity.PodAffinity == nil {
			pod.Spec.Affinity.PodAffinity = &corev1.PodAffinity{}
		}
		pod.Spec.Affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = weighted()
	}
	if w.chance(25) {
		if pod.Spec.Affinity.PodAntiAffinity == nil {
			pod.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{}
		}
		pod.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = weighted()
	}
}
