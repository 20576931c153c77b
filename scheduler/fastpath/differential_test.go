package fastpath_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"drayage.dev/scheduler/fastpath"
)

// fuzzVariable is how long to go on with new seeds, as a duration; a few clusters if unset.
const fuzzVariable = "DRAYAGE_FUZZ"

var _ = Describe("decisions on the fast path", func() {
	It("are among the best of upstream's plugins", func(ctx context.Context) {
		seeds := []uint64{uint64(time.Now().UnixNano())}
		for seed := range uint64(60) {
			seeds = append(seeds, seed)
		}
		var until time.Time
		if text := os.Getenv(fuzzVariable); text != "" {
			length, err := time.ParseDuration(text)
			Expect(err).NotTo(HaveOccurred())
			until = time.Now().Add(length)
		}
		fast, placed, merged := fastpath.Decided("fast", ""), 0, 0
		refused, missed := fastpath.Disagreed("refused"), fastpath.Disagreed("missed")
		clusters := 0
		for i := 0; i < len(seeds) || time.Now().Before(until); i++ {
			seed := rand.Uint64()
			if i < len(seeds) {
				seed = seeds[i]
			}
			clusters++
			found, nodes := compare(ctx, seed)
			placed, merged = placed+found, merged+nodes
			Expect(fastpath.Disagreed("refused")).To(Equal(refused), "seed %d", seed)
			Expect(fastpath.Disagreed("missed")).To(Equal(missed), "seed %d", seed)
		}
		share := (fastpath.Decided("fast", "") - fast) / float64(placed)
		fmt.Fprintf(GinkgoWriter, "%d clusters, %d pods placed, %.0f%% on the fast path; random seed %d\n",
			clusters, placed, 100*share, seeds[0])
		Expect(merged).To(BeNumerically(">", placed), "merged nodes")
		// The rest are pods that select namespaces by labels.
		Expect(share).To(BeNumerically(">", 0.9))
	})
})

// compare places pods in a random cluster that changes meanwhile, and holds every decision against
// upstream's plugins over all nodes. It returns how many pods found a node, and how often
// upstream's filter was asked about merged nodes.
func compare(ctx context.Context, seed uint64) (placed, merged int) {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := newWorld(ctx, seed)
	for n := range 120 {
		w.change()
		pod := w.stamp(w.templates[w.random.IntN(len(w.templates))])
		best := w.oracle.best(ctx, pod)
		fast := fastpath.Decided("fast", "")
		node, err := w.decide(ctx, pod)
		if fastpath.Decided("fast", "") == fast {
			// Upstream decided, on its own snapshot. How many nodes have an image is as of a node's last change there,
			// or of the last time that upstream looked.
			Expect(contents(w.snapshot)).To(Equal(contents(w.oracle.snapshot)), "seed %d, decision %d", seed, n)
			best = w.bestOf(ctx, pod)
		} else {
			nodes, err := w.engine.CheckMerged(ctx, w.profile.SchedulerName, pod)
			Expect(err).NotTo(HaveOccurred(), "seed %d, decision %d: %s", seed, n, pod)
			w.merged += nodes
		}
		Expect(contents(w.engine.Mirror())).To(Equal(contents(w.oracle.snapshot)), "seed %d, decision %d", seed, n)
		if len(best) == 0 {
			var unfit *framework.FitError
			Expect(errors.As(err, &unfit)).To(BeTrue(), "seed %d, decision %d: chose %q, err %v", seed, n, node, err)
			continue
		}
		Expect(err).NotTo(HaveOccurred(), "seed %d, decision %d", seed, n)
		Expect(best).To(HaveKey(node), "seed %d, decision %d: %s", seed, n, pod)
		w.adopt(pod, node)
		placed++
	}
	return placed, w.merged
}

// contents is what a lister shows of nodes, by name.
func contents(lister fwk.SharedLister) map[string]string {
	GinkgoHelper()
	shown := map[string]string{}
	note := func(what string, list func() ([]fwk.NodeInfo, error)) {
		nodes, err := list()
		Expect(err).NotTo(HaveOccurred())
		for _, node := range nodes {
			shown[node.Node().Name] += fmt.Sprintf("%s %d %d pods ", what, node.GetGeneration(), len(node.GetPods()))
		}
	}
	note("all", lister.NodeInfos().List)
	note("affinity", lister.NodeInfos().HavePodsWithAffinityList)
	note("required anti-affinity", lister.NodeInfos().HavePodsWithRequiredAntiAffinityList)
	return shown
}

// best returns the nodes of upstream's highest score now, with every node filtered and scored.
func (c *cluster) best(ctx context.Context, pod *corev1.Pod) map[string]int64 {
	GinkgoHelper()
	Expect(c.begin()).To(Succeed())
	return c.bestOf(ctx, pod)
}

// bestOf is best as of the snapshot.
func (c *cluster) bestOf(ctx context.Context, pod *corev1.Pod) map[string]int64 {
	GinkgoHelper()
	nodes, err := c.snapshot.NodeInfos().List()
	Expect(err).NotTo(HaveOccurred())
	state := framework.NewCycleState()
	result, status, _ := c.framework.RunPreFilterPlugins(ctx, state, pod)
	if status.IsRejected() {
		return nil
	}
	Expect(status.IsSuccess()).To(BeTrue(), status.Message())
	var feasible []fwk.NodeInfo
	for _, node := range nodes {
		if !result.AllNodes() && !result.NodeNames.Has(node.Node().Name) {
			continue
		}
		if c.framework.RunFilterPluginsWithNominatedPods(ctx, state, pod, node).IsSuccess() {
			feasible = append(feasible, node)
		}
	}
	if len(feasible) == 0 {
		return nil
	}
	Expect(c.framework.RunPreScorePlugins(ctx, state, pod, feasible).IsSuccess()).To(BeTrue())
	scores, status := c.framework.RunScorePlugins(ctx, state, pod, feasible)
	Expect(status.IsSuccess()).To(BeTrue(), status.Message())
	best, top := map[string]int64{}, int64(-1)
	for _, score := range scores {
		if score.TotalScore > top {
			clear(best)
			top = score.TotalScore
		}
		if score.TotalScore == top {
			best[score.Name] = top
		}
	}
	return best
}
