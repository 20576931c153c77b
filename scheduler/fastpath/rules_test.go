package fastpath_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"drayage.dev/scheduler/fastpath"
)

var _ = Describe("a class that was used before", func() {
	// Its nodes are in groups by then, which do not tell zones apart until somebody's rule does.
	for feared := range 6 {
		It(fmt.Sprintf("follows the first rule of another pod about zones, on node %d", feared), func(ctx context.Context) {
			c, err := newCluster(ctx, true)
			Expect(err).NotTo(HaveOccurred())
			c.addNodes(6)
			web := benchPod()
			selector := &metav1.LabelSelector{MatchLabels: web.Labels}
			web.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: selector,
			}}
			fast := fastpath.Decided("fast", "")
			for n := range 4 {
				if n == 2 {
					hermit := newTemplate(map[string]string{"app": "hermit"})
					hermit.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
						RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelTopologyZone, LabelSelector: selector}},
					}}
					_, err := c.place(c.stamp(hermit), fmt.Sprint("node-", feared))
					Expect(err).NotTo(HaveOccurred())
				}
				pod := c.stamp(web)
				best := c.oracle.best(ctx, pod)
				node, err := c.decide(ctx, pod)
				Expect(err).NotTo(HaveOccurred())
				Expect(best).To(HaveKey(node), "pod %d", n)
				_, err = c.place(pod, node)
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(fastpath.Decided("fast", "")).To(Equal(fast + 4))
		})
	}

	It("knows all nodes when rules about pods come back", func(ctx context.Context) {
		c, err := newCluster(ctx, true)
		Expect(err).NotTo(HaveOccurred())
		c.addNodes(6)
		hermit := c.stamp(newTemplate(map[string]string{"app": "hermit"}))
		hermit.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			}},
		}}
		fast := fastpath.Decided("fast", "")
		for n := range 8 {
			pod := c.stamp(benchPod())
			best := c.oracle.best(ctx, pod)
			node, err := c.decide(ctx, pod)
			Expect(err).NotTo(HaveOccurred())
			Expect(best).To(HaveKey(node), "pod %d", n)
			if n < 6 {
				_, err = c.place(pod, node)
				Expect(err).NotTo(HaveOccurred())
			}
			if n%2 == 0 {
				hermit, err = c.place(hermit, "node-0")
				Expect(err).NotTo(HaveOccurred())
			} else {
				Expect(c.scheduler.Cache.ForgetPod(c.logger(), hermit)).To(Succeed())
			}
		}
		Expect(fastpath.Decided("fast", "")).To(Equal(fast + 8))
	})

	It("knows which nodes required spread begins and ceases to look at", func(ctx context.Context) {
		c, err := newCluster(ctx, true)
		Expect(err).NotTo(HaveOccurred())
		c.addNodes(6)
		honor := corev1.NodeInclusionPolicyHonor
		web := benchPod()
		web.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 3, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, NodeTaintsPolicy: &honor,
			LabelSelector: &metav1.LabelSelector{MatchLabels: web.Labels},
		}}
		fast := fastpath.Decided("fast", "")
		for n := range 24 {
			info, err := c.engine.Mirror().NodeInfos().Get(fmt.Sprint("node-", n*5%6))
			if n > 6 {
				Expect(err).NotTo(HaveOccurred())
				changed := info.Node().DeepCopy()
				if changed.Spec.Taints == nil {
					changed.Spec.Taints = []corev1.Taint{{Key: "full", Effect: corev1.TaintEffectNoSchedule}}
				} else {
					changed.Spec.Taints = nil
				}
				c.scheduler.Cache.UpdateNode(c.logger(), info.Node(), changed)
			}
			pod := c.stamp(web)
			best := c.oracle.best(ctx, pod)
			if len(best) == 0 {
				continue
			}
			node, err := c.decide(ctx, pod)
			Expect(err).NotTo(HaveOccurred())
			Expect(best).To(HaveKey(node), "pod %d", n)
			Expect(c.engine.CheckMerged(ctx, c.profile.SchedulerName, pod)).To(Equal(6))
			_, err = c.place(pod, node)
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(fastpath.Decided("fast", "") - fast).To(BeNumerically(">", 12))
	})
})

// addNodes adds nodes in two zones.
func (c *cluster) addNodes(count int) {
	for n := range count {
		name := fmt.Sprint("node-", n)
		c.scheduler.Cache.AddNode(c.logger(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
				corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", n%2),
			}},
			Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
			}},
		})
	}
}
