package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-base/metrics/testutil"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/test/changes"
	"drayage.dev/test/cluster"
	"drayage.dev/test/load"
)

const (
	// workers of each kind, which ask fourteen times a second each: in a pod, and outside.
	workers, outsiders = 24, 4
	// leastLoad is how many requests there must be for the proof to mean something: a slow machine sends fewer a
	// second, and takes longer for what is done meanwhile.
	leastLoad = 20_000
)

const steady = load.Application + `apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: edge}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
# Nothing may be missing at any time: only a surge lets a drain go on.
apiVersion: policy.drayage.dev/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  maxUnavailable: 0
  selector: {matchLabels: {app: web}}
`

var _ = Describe("requests under steady load", func() {
	It("are never lost by updates, scaling, a drained node, deleted pods or restarted agents", func(ctx SpecContext) {
		many, err := cluster.Start(ctx, cluster.Options{Nodes: 3, Routed: 1})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			if CurrentSpecReport().Failed() {
				GinkgoWriter.Println(many.Tails(40))
			}
			Expect(many.Close()).To(Succeed())
		})
		namespace := newNamespace(ctx, many)
		webLabels := labels.Set{"app": "web"}
		apply(ctx, many, namespace, steady+"---\n"+strings.NewReplacer("on-NODE", "client", "NODE", "n1", "mesh", "client").Replace(member))
		available(ctx, many, namespace, "web")
		caller := readyPods(ctx, many, namespace, labels.Set{"app": "client"}, 1)[0]
		from, err := many.Nodes[0].PodNamespace(caller.UID)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(from.Close)
		service := &dcorev1.Service{}
		Expect(many.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "web"}, service)).To(Succeed())
		outside, err := many.NewOutside()
		Expect(err).NotTo(HaveOccurred())
		edge := &dcorev1.Service{}
		Eventually(func(g Gomega) {
			g.Expect(many.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "edge"}, edge)).To(Succeed())
			g.Expect(edge.Spec.Ports[0].NodePort).NotTo(BeZero())
		}).Should(Succeed())
		gate := at(many.Nodes[0].Address, edge.Spec.Ports[0].NodePort)
		Eventually(reached(outside.Namespace, "tcp", gate)).ShouldNot(BeEmpty())
		scale := func(n int) {
			GinkgoHelper()
			_, err := many.Kubectl(ctx, "scale", "ddeploy/web", fmt.Sprintf("--replicas=%d", n), "-n", namespace)
			Expect(err).NotTo(HaveOccurred())
			available(ctx, many, namespace, "web")
			Eventually(func() int { return len(allOf(ctx, many, namespace, webLabels)) }).Should(Equal(n))
		}

		chronicle(ctx, many, namespace)
		l := load.Start(from.DialContext, "http://"+service.Spec.ClusterIP+"/", workers)
		ofOutside := load.Start(outside.DialContext, "http://"+gate+"/", outsiders)
		now := func(phase string) {
			By(phase)
			l.Now(phase)
			ofOutside.Now(phase)
		}
		for i := range 10 {
			now(fmt.Sprintf("rolling update %d", i+1))
			_, err := many.Dray(ctx, "rollout", "restart", "ddeploy/web", "-n", namespace)
			Expect(err).NotTo(HaveOccurred())
			available(ctx, many, namespace, "web")
		}
		for _, n := range []int{10, 2, 10} {
			now(fmt.Sprintf("scaling to %d", n))
			scale(n)
		}
		drained := many.Nodes[1]
		now("draining " + drained.Name)
		drain(ctx, many, namespace, drained.Name)
		now("deleting pods")
		for _, pod := range readyPods(ctx, many, namespace, webLabels, 10)[:3] {
			Expect(many.Client.Delete(ctx, &pod)).To(Succeed())
		}
		readyPods(ctx, many, namespace, webLabels, 10)
		Eventually(func() int { return len(allOf(ctx, many, namespace, webLabels)) }).Should(Equal(10))
		var waits withdrawals
		for _, node := range many.Nodes {
			now("restarting the agent of " + node.Name)
			waits.add(node)
			Expect(node.Agent.Restart()).To(Succeed())
			// The Node says Ready all the while: the agent is back when it serves logs.
			for _, pod := range pods(ctx, many, namespace, webLabels) {
				if pod.Spec.NodeName == node.Name {
					Eventually(func() error {
						_, err := many.Dray(ctx, "logs", pod.Name, "-n", namespace)
						return err
					}).Should(Succeed())
				}
			}
		}
		now("scaling to 2 after all")
		scale(2)
		result, others := l.End(), ofOutside.End()
		for _, node := range many.Nodes {
			waits.add(node)
		}
		AddReportEntry(fmt.Sprintf("%d pods waited for the proxies, %.3f s each, at most %s s; %d without avail",
			waits.acknowledged, waits.seconds/float64(waits.acknowledged), waits.slowest(), waits.expired))
		AddReportEntry(fmt.Sprintf("%d requests, %.0f a second, %d lost", result.Sent, result.Rate, result.Lost))
		AddReportEntry(fmt.Sprintf("%d requests to a node port, %.0f a second, %d lost", others.Sent, others.Rate, others.Lost))
		Expect(result.Failures()).To(BeEmpty(), "of %d requests", result.Sent)
		Expect(others.Failures()).To(BeEmpty(), "of %d requests from outside", others.Sent)
		// Each update ends four, scaling down eight, two times. Where a starved node does not acknowledge within two
		// seconds, once in a while, these have to do.
		Expect(waits.acknowledged + waits.expired).To(BeNumerically(">=", 10*4+8+3+8))
		Expect(waits.expired).To(BeNumerically("<=", waits.acknowledged/10), "it is the acknowledgement that loses nothing, not the time that passes")
		Expect(result.Sent+others.Sent).To(BeNumerically(">=", leastLoad), "requests")
	}, SpecTimeout(10*time.Minute))
})

// withdrawals adds up how ending pods waited for the service proxies, over agents that count from their start on.
type withdrawals struct {
	acknowledged, expired uint64
	// seconds is how long the acknowledged ones waited together; within counts them by the bounds of the histogram.
	seconds float64
	within  map[float64]uint64
}

// add adds what the agent of a node has counted since it was started.
func (w *withdrawals) add(node *cluster.Node) {
	GinkgoHelper()
	scraped, err := tryGet(node, "http://127.0.0.1:10351/metrics")
	Expect(err).NotTo(HaveOccurred())
	found, err := testutil.TextToMetricFamilies(strings.NewReader(scraped))
	Expect(err).NotTo(HaveOccurred())
	family := found["drayage_agent_withdrawal_duration_seconds"]
	Expect(family.GetMetric()).To(HaveLen(2))
	if w.within == nil {
		w.within = map[float64]uint64{}
	}
	for _, metric := range family.GetMetric() {
		histogram := metric.GetHistogram()
		if metric.GetLabel()[0].GetValue() == "expired" {
			w.expired += histogram.GetSampleCount()
			continue
		}
		w.acknowledged += histogram.GetSampleCount()
		w.seconds += histogram.GetSampleSum()
		for _, bucket := range histogram.GetBucket() {
			w.within[bucket.GetUpperBound()] += bucket.GetCumulativeCount()
		}
	}
}

// slowest is the least bound of the histogram that every acknowledged wait kept.
func (w *withdrawals) slowest() string {
	for _, bound := range slices.Sorted(maps.Keys(w.within)) {
		if w.within[bound] == w.acknowledged {
			return fmt.Sprint(bound)
		}
	}
	return "?"
}

// drain drains a node and takes it back into service. All the while, no replica may be missing.
func drain(ctx context.Context, on *cluster.Cluster, namespace, node string) {
	GinkgoHelper()
	deployment := &dappsv1.Deployment{}
	key := client.ObjectKey{Namespace: namespace, Name: "web"}
	Expect(on.Client.Get(ctx, key, deployment)).To(Succeed())
	watch, err := changes.Of(ctx, on.Client, &dappsv1.DeploymentList{}, client.InNamespace(namespace), client.MatchingFields{"metadata.name": key.Name})
	Expect(err).NotTo(HaveOccurred())
	lowest := make(chan int32, 1)
	go func() {
		low := deployment.Status.AvailableReplicas
		for change := range watch.ResultChan() {
			if d, ok := change.Object.(*dappsv1.Deployment); ok {
				low = min(low, d.Status.AvailableReplicas)
			}
		}
		lowest <- low
	}()
	out, err := on.Dray(ctx, "drain", node, "--timeout=5m")
	fmt.Fprintln(GinkgoWriter, out)
	watch.Stop()
	Expect(err).NotTo(HaveOccurred())
	Expect(<-lowest).To(Equal(*deployment.Spec.Replicas), "the replacement comes first")
	for _, pod := range pods(ctx, on, namespace, labels.Set{"app": "web"}) {
		Expect(pod.Spec.NodeName).NotTo(Equal(node))
	}
	_, err = on.Dray(ctx, "uncordon", node)
	Expect(err).NotTo(HaveOccurred())
}

// chronicle writes down, with the time, every change of pods and endpoints, so that a lost request can be
// told from what happened then.
func chronicle(ctx context.Context, on *cluster.Cluster, namespace string) {
	GinkgoHelper()
	for _, list := range []client.ObjectList{&dcorev1.PodList{}, &ddiscoveryv1.EndpointSliceList{}} {
		watch, err := changes.Of(ctx, on.Client, list, client.InNamespace(namespace))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(watch.Stop)
		go func() {
			for change := range watch.ResultChan() {
				now := time.Now().Format("15:04:05.000")
				switch object := change.Object.(type) {
				case *dcorev1.Pod:
					fmt.Fprintln(GinkgoWriter, now, change.Type, object.Name, object.Spec.NodeName, object.Status.PodIP,
						object.Status.Summary.Status, "ready:", ready(object), "ending:", object.DeletionTimestamp != nil)
				case *ddiscoveryv1.EndpointSlice:
					line := ""
					for _, endpoint := range object.Endpoints {
						line += fmt.Sprintf(" %s=%t", endpoint.Addresses[0], endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready)
					}
					fmt.Fprintln(GinkgoWriter, now, change.Type, object.Name, object.ResourceVersion, line)
				}
			}
		}()
	}
}

// allOf lists the pods that carry labels, ending ones too.
func allOf(ctx context.Context, on *cluster.Cluster, namespace string, selector labels.Set) []dcorev1.Pod {
	GinkgoHelper()
	list := &dcorev1.PodList{}
	Expect(on.Client.List(ctx, list, client.InNamespace(namespace), client.MatchingLabels(selector))).To(Succeed())
	return list.Items
}
