package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/cluster"
)

// gracePeriod is how long the node controller of these specs waits for a node that is silent.
const gracePeriod = 15 * time.Second

const member = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: NAME, labels: {app: mesh}}
spec:
  nodeSelector: {kubernetes.io/hostname: NODE}
  terminationGracePeriodSeconds: 5
  containers:
  - name: web
    image: my-app:1.0
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
---
`

const meshServices = `
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: mesh}
spec:
  type: NodePort
  selector: {app: mesh}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: sticky}
spec:
  sessionAffinity: ClientIP
  selector: {app: mesh}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: near}
spec:
  internalTrafficPolicy: Local
  externalIPs: [198.51.100.7]
  selector: {app: mesh}
  ports: [{port: 80, targetPort: http}]
`

// Two nodes share a link, the third is behind a router: so both kinds of ways are used.
var _ = Describe("several nodes", Ordered, func() {
	var (
		many      *cluster.Cluster
		namespace string
		members   map[string]dcorev1.Pod // by node
		service   *dcorev1.Service
	)
	meshLabels := labels.Set{"app": "mesh"}

	BeforeAll(func(ctx SpecContext) {
		var err error
		many, err = cluster.Start(ctx, cluster.Options{
			Nodes: 3, Routed: 1, ManagerArgs: []string{"--node-monitor-grace-period=" + gracePeriod.String()},
		})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			Expect(many.Close()).To(Succeed())
			for _, node := range many.Nodes {
				Expect(node.Leftovers()).To(BeEmpty())
			}
		})
		object := &corev1.Namespace{}
		object.Name, namespace = "mesh", "mesh"
		Expect(many.Client.Create(ctx, object)).To(Succeed())
		text := ""
		for _, node := range many.Nodes {
			text += strings.NewReplacer("NAME", "on-"+node.Name, "NODE", node.Name).Replace(member)
		}
		apply(ctx, many, namespace, text+meshServices)
		members = map[string]dcorev1.Pod{}
		for _, pod := range readyPods(ctx, many, namespace, meshLabels, 3) {
			members[pod.Spec.NodeName] = pod
		}
		Expect(members).To(HaveLen(3))
		service = &dcorev1.Service{}
		Expect(many.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "mesh"}, service)).To(Succeed())
	}, NodeTimeout(4*time.Minute))

	AfterEach(func(ctx SpecContext) {
		if CurrentSpecReport().Failed() {
			describe(ctx, many, namespace)
			fmt.Fprintln(GinkgoWriter, many.Tails(40))
			for _, node := range many.Nodes {
				for _, argv := range [][]string{{"ip", "route"}, {"ip", "-d", "link", "show", "type", "vxlan"}, {"nft", "list", "ruleset"}} {
					out, err := node.Exec(ctx, argv...)
					fmt.Fprintln(GinkgoWriter, node.Name, argv, out, err)
				}
			}
		}
	})

	type answer struct{ Pod, Client string }
	parse := func(body string) (a answer, err error) {
		err = json.Unmarshal([]byte(body), &a)
		return a, err
	}
	// fromPod asks from inside the pod of a node.
	fromPod := func(node *cluster.Node, target string) (answer, error) {
		body, err := tryGet(node, "http://"+members[node.Name].Status.PodIP+":8080/fetch?url="+url.QueryEscape(target))
		if err != nil {
			return answer{}, err
		}
		return parse(body)
	}
	fromNode := func(node *cluster.Node, target string) (answer, error) {
		body, err := tryGet(node, target)
		if err != nil {
			return answer{}, err
		}
		return parse(body)
	}
	// reached asks often and returns who answered; an error ends it.
	reached := func(ask func() (answer, error)) (map[string]bool, error) {
		pods := map[string]bool{}
		for range 30 {
			a, err := ask()
			if err != nil {
				return pods, err
			}
			pods[a.Pod] = true
		}
		return pods, nil
	}
	everybody := map[string]bool{"on-n1": true, "on-n2": true, "on-n3": true}

	It("reach each other's pods, seen with their own addresses", func(ctx SpecContext) {
		for _, from := range many.Nodes {
			for _, to := range many.Nodes {
				target := "http://" + members[to.Name].Status.PodIP + ":8080/"
				a, err := fromPod(from, target)
				Expect(err).NotTo(HaveOccurred(), "pod of %s to pod of %s", from.Name, to.Name)
				Expect(a.Pod).To(Equal("on-" + to.Name))
				Expect(a.Client).To(HavePrefix(members[from.Name].Status.PodIP + ":"))
				a, err = fromNode(from, target)
				Expect(err).NotTo(HaveOccurred(), "%s to pod of %s", from.Name, to.Name)
				Expect(a.Client).To(HavePrefix(from.Address.String() + ":"))
			}
			node := &dcorev1.Node{}
			Expect(many.Client.Get(ctx, client.ObjectKey{Name: from.Name}, node)).To(Succeed())
			Expect(node.Status.Conditions).To(ContainElement(And(
				HaveField("Type", corev1.NodeNetworkUnavailable), HaveField("Status", corev1.ConditionFalse))))
			Expect(node.Spec.Taints).To(BeEmpty())
		}
	}, SpecTimeout(5*time.Minute))

	It("reach services by address, node port and name, from every pod and node", func(ctx SpecContext) {
		for _, from := range many.Nodes {
			targets := []string{"http://" + service.Spec.ClusterIP + "/"}
			for _, node := range many.Nodes {
				targets = append(targets, fmt.Sprintf("http://%s:%d/", node.Address, service.Spec.Ports[0].NodePort))
			}
			for _, target := range targets {
				Expect(reached(func() (answer, error) { return fromNode(from, target) })).To(Equal(everybody), "%s to %s", from.Name, target)
				Expect(reached(func() (answer, error) { return fromPod(from, target) })).To(Equal(everybody), "pod of %s to %s", from.Name, target)
			}
			for _, name := range []string{"mesh", "mesh.mesh.svc.cluster.local"} {
				Expect(reached(func() (answer, error) { return fromPod(from, "http://"+name+"/") })).To(Equal(everybody), "pod of %s to %s", from.Name, name)
			}
		}
	}, SpecTimeout(2*time.Minute))

	It("keep clients with affinity at their endpoint, wherever it is", func(ctx SpecContext) {
		for _, from := range many.Nodes {
			for _, ask := range []func(*cluster.Node, string) (answer, error){fromPod, fromNode} {
				sticky := &dcorev1.Service{}
				Expect(many.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "sticky"}, sticky)).To(Succeed())
				Expect(reached(func() (answer, error) { return ask(from, "http://"+sticky.Spec.ClusterIP+"/") })).To(HaveLen(1))
			}
		}
	}, SpecTimeout(5*time.Minute))

	It("stay on their node where the service says so, and reach its external address", func(ctx SpecContext) {
		for _, from := range many.Nodes {
			Expect(reached(func() (answer, error) { return fromPod(from, "http://near/") })).To(Equal(map[string]bool{"on-" + from.Name: true}))
			Expect(reached(func() (answer, error) { return fromPod(from, "http://198.51.100.7/") })).To(Equal(everybody))
		}
	}, SpecTimeout(time.Minute))

	It("restart their agents without a gap", func(ctx SpecContext) {
		for _, node := range many.Nodes {
			Expect(node.Agent.Restart()).To(Succeed())
		}
		deadline := time.Now().Add(3 * time.Second)
		for time.Now().Before(deadline) {
			for i, from := range many.Nodes {
				_, err := fromPod(from, "http://"+members[many.Nodes[(i+2)%3].Name].Status.PodIP+":8080/")
				Expect(err).NotTo(HaveOccurred(), "from %s", from.Name)
				_, err = fromPod(from, "http://"+service.Spec.ClusterIP+"/")
				Expect(err).NotTo(HaveOccurred(), "from %s", from.Name)
			}
		}
	}, SpecTimeout(5*time.Minute))

	// leaves waits until the service leads to the other two only, from both, and returns how long it took.
	leaves := func(lost *cluster.Node) time.Duration {
		GinkgoHelper()
		start := time.Now()
		others := map[string]bool{}
		for name := range everybody {
			if name != "on-"+lost.Name {
				others[name] = true
			}
		}
		for _, from := range many.Nodes {
			if from != lost {
				Eventually(func() (map[string]bool, error) {
					return reached(func() (answer, error) { return fromNode(from, "http://"+service.Spec.ClusterIP+"/") })
				}).Should(Equal(others))
			}
		}
		return time.Since(start)
	}
	comesBack := func(ctx context.Context) {
		GinkgoHelper()
		for _, from := range many.Nodes {
			Eventually(func() (map[string]bool, error) {
				return reached(func() (answer, error) { return fromNode(from, "http://"+service.Spec.ClusterIP+"/") })
			}).Should(Equal(everybody), "from %s", from.Name)
		}
	}
	// The controller looks every five seconds; asking takes some, too.
	soon := gracePeriod + 5*time.Second + 10*time.Second

	It("go on without one that is cut off, and with it again", func(ctx SpecContext) {
		lost := many.Nodes[2]
		Expect(lost.Partition()).To(Succeed())
		took := leaves(lost)
		AddReportEntry("endpoints of a partitioned node left the rules after", took)
		Expect(took).To(BeNumerically("<", soon))
		By("its own pods still reach it")
		a, err := fromPod(lost, "http://"+members[lost.Name].Status.PodIP+":8080/")
		Expect(err).NotTo(HaveOccurred())
		Expect(a.Pod).To(Equal("on-n3"))
		Expect(lost.Heal()).To(Succeed())
		comesBack(ctx)
		for _, pod := range readyPods(ctx, many, namespace, meshLabels, 3) {
			Expect(pod.UID).To(Equal(members[pod.Spec.NodeName].UID))
			Expect(pod.Status.ContainerStatuses[0].RestartCount).To(BeZero())
		}
	}, SpecTimeout(3*time.Minute))

	It("go on without one that loses its power, and with it again after it has started from its disk", func(ctx SpecContext) {
		lost := many.Nodes[1]
		ran := members[lost.Name]
		Expect(lost.PowerCut()).To(Succeed())
		Expect(lost.Leftovers()).To(BeEmpty(), "a machine without power has no processes and no memory")
		took := leaves(lost)
		AddReportEntry("endpoints of a node without power left the rules after", took)
		Expect(took).To(BeNumerically("<", soon))
		Expect(lost.PowerOn(ctx)).To(Succeed())
		for _, pod := range readyPods(ctx, many, namespace, meshLabels, 3) {
			members[pod.Spec.NodeName] = pod
		}
		comesBack(ctx)
		By("the pod is the one that ran there, in a container that started after the power's return")
		Expect(lost.WaitReady(ctx, time.Minute)).To(Succeed())
		again := members[lost.Name]
		Expect(again.UID).To(Equal(ran.UID))
		before, after := ran.Status.ContainerStatuses[0], again.Status.ContainerStatuses[0]
		Expect(after.ContainerID).NotTo(Equal(before.ContainerID))
		Expect(after.RestartCount).To(Equal(before.RestartCount + 1))
		Expect(after.LastTerminationState.Terminated).To(HaveValue(And(
			HaveField("ContainerID", before.ContainerID), HaveField("ExitCode", Not(BeZero())))))
		By("what it answers")
		a, err := fromPod(many.Nodes[0], "http://"+again.Status.PodIP+":8080/")
		Expect(err).NotTo(HaveOccurred())
		Expect(a.Pod).To(Equal("on-" + lost.Name))
	}, SpecTimeout(4*time.Minute))
})
