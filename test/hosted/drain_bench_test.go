//go:build cluster && bench

package hosted_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/test/cluster"
	"drayage.dev/test/load"
)

// The same load, on the same machine, through the same disruptions: Drayage, then upstream's control plane,
// kubelet and kube-proxy. `make bench-drain` prints what each of them lost.

const benchApplication = load.Application + `# Upstream cannot drain under a budget of nothing.
apiVersion: policy.drayage.dev/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  maxUnavailable: 2
  selector: {matchLabels: {app: web}}
`

const (
	benchUpdates = 10
	benchWorkers = 24
	benchNodes   = 3
)

// contestant is a cluster of three nodes.
type contestant struct {
	name string
	// node is the network of the node that asks.
	node *cluster.Namespace
	// dray runs a command of kubectl's that Drayage has as its own, kubectl one of kubectl's.
	dray, kubectl func(ctx context.Context, args ...string) (string, error)
	// group turns the application into the contestant's.
	group *strings.Replacer
	pods  string
	// nodes are their names; restart restarts the agents of one.
	nodes   []string
	restart func(number int)
}

var _ = Describe("Requests through disruptions", Ordered, func() {
	It("are lost by one and by the other", func(ctx SpecContext) {
		ours := compete(ctx, drayageContestant(ctx))
		theirs := compete(ctx, kubernetesContestant(ctx))
		Expect(report(ours, theirs)).To(Succeed())
		Expect(ours.Failures()).To(BeEmpty())
	}, SpecTimeout(30*time.Minute))
})

func drayageContestant(ctx context.Context) contestant {
	GinkgoHelper()
	c, err := cluster.Start(ctx, cluster.Options{Nodes: benchNodes})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(c.Close()).To(Succeed()) })
	own := contestant{
		name: "drayage", node: c.Nodes[0].Namespace, dray: c.Dray, kubectl: c.Kubectl,
		group: strings.NewReplacer(), pods: "pods.core.drayage.dev",
		restart: func(number int) { Expect(c.Nodes[number].Agent.Restart()).To(Succeed()) },
	}
	for _, node := range c.Nodes {
		own.nodes = append(own.nodes, node.Name)
	}
	return own
}

func kubernetesContestant(ctx context.Context) contestant {
	GinkgoHelper()
	h = startHostWith(ctx, benchNodes, func(ctx context.Context, h *host) *store { return startPlainStore(ctx, h) })
	upstream := contestant{
		name: "kubernetes", node: h.machines[0].network, dray: kubectl, kubectl: kubectl,
		group: strings.NewReplacer("apps.drayage.dev/", "apps/", "core.drayage.dev/", "", "policy.drayage.dev/", "policy/"), pods: "pods",
		restart: func(number int) {
			m := h.machines[number]
			m.kill(m.kubelet)
			m.kill(m.proxy)
			m.startKubelet()
			m.startProxy()
		},
	}
	for _, m := range h.machines {
		upstream.nodes = append(upstream.nodes, m.name)
	}
	return upstream
}

// compete takes the contestant through all disruptions under load.
func compete(ctx context.Context, c contestant) load.Result {
	GinkgoHelper()
	must := func(out string, err error) string {
		GinkgoHelper()
		Expect(err).NotTo(HaveOccurred())
		return out
	}
	for _, node := range c.nodes {
		Eventually(func() string {
			out, _ := c.kubectl(ctx, "get", strings.Replace(c.pods, "pods", "nodes", 1), node, "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}")
			return out
		}).Should(Equal("True"), node)
	}
	manifest := GinkgoT().TempDir() + "/app.yaml"
	Expect(os.WriteFile(manifest, []byte(c.group.Replace(benchApplication)), 0o600)).To(Succeed())
	must(c.kubectl(ctx, "apply", "--filename", manifest))
	settled := func(pods int) {
		GinkgoHelper()
		must(c.dray(ctx, "rollout", "status", "deployment/web", "--timeout=3m"))
		Eventually(func() int {
			return len(strings.Fields(must(c.kubectl(ctx, "get", c.pods, "--selector=app=web", "--output=name"))))
		}).WithTimeout(2 * time.Minute).Should(Equal(pods))
	}
	settled(4)
	deployment := strings.Replace(c.pods, "pods.core", "deployments.apps", 1)
	if c.pods == "pods" {
		deployment = "deployment"
	}
	service := strings.Replace(c.pods, "pods", "services", 1)
	address := must(c.kubectl(ctx, "get", service, "web", "--output=jsonpath={.spec.clusterIP}"))

	l := load.Start(c.node.DialContext, "http://"+address+"/", benchWorkers)
	for range benchUpdates {
		l.Now("rolling updates")
		must(c.dray(ctx, "rollout", "restart", "deployment/web"))
		settled(4)
	}
	for _, n := range []int{10, 2, 10} {
		l.Now("scaling")
		must(c.kubectl(ctx, "scale", deployment, "web", fmt.Sprintf("--replicas=%d", n)))
		settled(n)
	}
	l.Now("a drained node")
	must(c.dray(ctx, "drain", c.nodes[1], "--timeout=5m"))
	settled(10)
	must(c.dray(ctx, "uncordon", c.nodes[1]))
	l.Now("deleted pods")
	for _, pod := range strings.Fields(must(c.kubectl(ctx, "get", c.pods, "--selector=app=web", "--output=name")))[:3] {
		must(c.kubectl(ctx, "delete", pod, "--wait=false"))
	}
	settled(10)
	for number := range c.nodes {
		l.Now("restarted agents")
		c.restart(number)
		time.Sleep(5 * time.Second) // what a gap would show in
	}
	return l.End()
}

// figure is one line of the results, as of the other benchmarks: above 1 is ours better. Of none lost the
// ratio takes one.
type figure struct {
	Name  string  `json:"name"`
	Ours  float64 `json:"ours"`
	Peer  float64 `json:"peer"`
	Ratio float64 `json:"ratio"`
	Unit  string  `json:"unit"`
}

func report(ours, theirs load.Result) error {
	lost := func(of load.Result, name string) (count float64) {
		for _, phase := range of.Phases {
			if phase.Name == name {
				count += float64(len(phase.Lost))
			}
		}
		return count
	}
	figures := []figure{
		{Name: "drain/requests", Ours: float64(ours.Sent), Peer: float64(theirs.Sent), Unit: "sent"},
		{Name: "drain/rate", Ours: ours.Rate, Peer: theirs.Rate, Unit: "requests/s"},
		{Name: "drain/lost", Ours: float64(ours.Lost), Peer: float64(theirs.Lost), Ratio: float64(theirs.Lost) / max(float64(ours.Lost), 1), Unit: "requests"},
	}
	for _, name := range []string{"rolling updates", "scaling", "a drained node", "deleted pods", "restarted agents"} {
		own, their := lost(ours, name), lost(theirs, name)
		figures = append(figures, figure{Name: "drain/lost/" + strings.ReplaceAll(name, " ", "-"), Ours: own, Peer: their, Ratio: their / max(own, 1), Unit: "requests"})
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nFIGURE\tDRAYAGE\tKUBERNETES\tRATIO\tUNIT")
	for _, f := range figures {
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.0f\t%s\n", f.Name, f.Ours, f.Peer, f.Ratio, f.Unit)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, failure := range append(ours.Failures(), theirs.Failures()...) {
		fmt.Fprintln(GinkgoWriter, failure)
	}
	name := os.Getenv("BENCH_JSON")
	if name == "" {
		return nil
	}
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, f := range figures {
		if err := json.NewEncoder(file).Encode(f); err != nil {
			return err
		}
	}
	return nil
}
