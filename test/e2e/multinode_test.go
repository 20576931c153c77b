package e2e_test

import (
	"context"
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
metadata: {name: on-NODE, labels: {app: mesh}}
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
	m := &mesh{namespace: "mesh"}
	var service *dcorev1.Service
	meshLabels := labels.Set{"app": "mesh"}

	BeforeAll(func(ctx SpecContext) {
		m.start(ctx, cluster.Options{
			// Shares of another size than usual, so that nobody counts on that.
			Nodes: 3, Routed: 1, ManagerArgs: []string{"--node-monitor-grace-period=" + gracePeriod.String(), "--node-cidr-mask-size=26"},
		}, member, meshServices, meshLabels)
		service = m.service(ctx, "mesh")
	}, NodeTimeout(10*time.Minute))

	AfterEach(m.dump)

	// fromPod asks from inside the pod of a node, which resolves names.
	fromPod := func(node *cluster.Node, target string) (answer, error) {
		body, err := tryGet(node, "http://"+m.pods[node.Name].Status.PodIP+":8080/fetch?url="+url.QueryEscape(target))
		if err != nil {
			return answer{}, err
		}
		return read([]byte(body))
	}
	fromNode := func(node *cluster.Node, target string) (answer, error) {
		body, err := tryGet(node, target)
		if err != nil {
			return answer{}, err
		}
		return read([]byte(body))
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
	reaching := func(ask func() (answer, error)) func() (map[string]bool, error) {
		return func() (map[string]bool, error) { return reached(ask) }
	}
	everybody := map[string]bool{"on-n1": true, "on-n2": true, "on-n3": true}

	It("reach each other's pods, seen with their own addresses", func(ctx SpecContext) {
		for _, from := range m.Nodes {
			for _, to := range m.Nodes {
				target := "http://" + m.pods[to.Name].Status.PodIP + ":8080/"
				a, err := fromPod(from, target)
				Expect(err).NotTo(HaveOccurred(), "pod of %s to pod of %s", from.Name, to.Name)
				Expect(a.Pod).To(Equal("on-" + to.Name))
				Expect(a.Client).To(Equal(m.pods[from.Name].Status.PodIP))
				a, err = fromNode(from, target)
				Expect(err).NotTo(HaveOccurred(), "%s to pod of %s", from.Name, to.Name)
				Expect(a.Client).To(Equal(from.Address.String()))
			}
			node := &dcorev1.Node{}
			Expect(m.Client.Get(ctx, client.ObjectKey{Name: from.Name}, node)).To(Succeed())
			Expect(node.Status.Conditions).To(ContainElement(And(
				HaveField("Type", corev1.NodeNetworkUnavailable), HaveField("Status", corev1.ConditionFalse))))
			Expect(node.Spec.Taints).To(BeEmpty())
			Expect(node.Spec.PodCIDR).To(HaveSuffix("/26"))
		}
	}, SpecTimeout(10*time.Minute))

	// dead expects that clients hear that an address cannot be reached. The kernel says so two or three times in a row to
	// one client and every two seconds then, and a busy socket hears it when it has repeated its packet.
	dead := func(address string, froms ...*cluster.Namespace) {
		GinkgoHelper()
		for _, from := range froms {
			Eventually(func() error {
				ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
				defer cancel()
				_, err := from.DialContext(ctx, "tcp", address+":8080")
				return err
			}).Should(MatchError(ContainSubstring("no route to host")), "%s from %s", address, from.Name)
		}
	}

	It("answer that the address of a pod that is gone cannot be reached, from everywhere", func(ctx SpecContext) {
		for _, node := range m.Nodes {
			apply(ctx, m.Cluster, m.namespace, strings.NewReplacer("on-NODE", "gone-"+node.Name, "NODE", node.Name, "mesh", "gone").Replace(member))
		}
		for _, pod := range readyPods(ctx, m.Cluster, m.namespace, labels.Set{"app": "gone"}, 3) {
			Eventually(refused(m.inPod["n1"], "tcp", pod.Status.PodIP+":8080")).Should(MatchError(pod.Name + " answers"))
			Expect(m.Client.Delete(ctx, &pod)).To(Succeed())
			Eventually(func() error { return m.Client.Get(ctx, client.ObjectKeyFromObject(&pod), &pod) }).Should(MatchError(ContainSubstring("not found")))
			for _, node := range m.Nodes {
				dead(pod.Status.PodIP, m.inPod[node.Name])
				if node.Name != pod.Spec.NodeName {
					dead(pod.Status.PodIP, node.Namespace)
				}
			}
		}
	}, SpecTimeout(10*time.Minute))

	It("reach services by address, node port and name, from every pod and node", func(ctx SpecContext) {
		for _, from := range m.Nodes {
			targets := []string{"http://" + service.Spec.ClusterIP + "/"}
			for _, node := range m.Nodes {
				targets = append(targets, fmt.Sprintf("http://%s:%d/", node.Address, service.Spec.Ports[0].NodePort))
			}
			for _, target := range targets {
				Eventually(reaching(func() (answer, error) { return fromNode(from, target) })).Should(Equal(everybody), "%s to %s", from.Name, target)
				Eventually(reaching(func() (answer, error) { return fromPod(from, target) })).Should(Equal(everybody), "pod of %s to %s", from.Name, target)
			}
			a, err := fromPod(from, targets[0])
			Expect(err).NotTo(HaveOccurred())
			Expect(a).To(Or(HaveField("Client", m.pods[from.Name].Status.PodIP), HaveField("Pod", "on-"+from.Name)), "only to itself a pod comes as the node")
			for _, name := range []string{"mesh", "mesh.mesh.svc.cluster.local"} {
				Eventually(reaching(func() (answer, error) { return fromPod(from, "http://"+name+"/") })).Should(Equal(everybody), "pod of %s to %s", from.Name, name)
			}
		}
	}, SpecTimeout(10*time.Minute))

	It("keep clients with affinity at their endpoint, wherever it is", func(ctx SpecContext) {
		for _, from := range m.Nodes {
			for _, ask := range []func(*cluster.Node, string) (answer, error){fromPod, fromNode} {
				sticky := &dcorev1.Service{}
				Expect(m.Client.Get(ctx, client.ObjectKey{Namespace: m.namespace, Name: "sticky"}, sticky)).To(Succeed())
				Eventually(reaching(func() (answer, error) { return ask(from, "http://"+sticky.Spec.ClusterIP+"/") })).Should(HaveLen(1))
			}
		}
	}, SpecTimeout(10*time.Minute))

	It("stay on their node where the service says so, and reach its external address", func(ctx SpecContext) {
		for _, from := range m.Nodes {
			Eventually(reaching(func() (answer, error) { return fromPod(from, "http://near/") })).Should(Equal(map[string]bool{"on-" + from.Name: true}))
			Eventually(reaching(func() (answer, error) { return fromPod(from, "http://198.51.100.7/") })).Should(Equal(everybody))
		}
	}, SpecTimeout(10*time.Minute))

	It("restart their agents without a gap", func(ctx SpecContext) {
		for _, node := range m.Nodes {
			Expect(node.Agent.Restart()).To(Succeed())
		}
		deadline := time.Now().Add(3 * time.Second)
		for time.Now().Before(deadline) {
			for i, from := range m.Nodes {
				_, err := fromPod(from, "http://"+m.pods[m.Nodes[(i+2)%3].Name].Status.PodIP+":8080/")
				Expect(err).NotTo(HaveOccurred(), "from %s", from.Name)
				_, err = fromPod(from, "http://"+service.Spec.ClusterIP+"/")
				Expect(err).NotTo(HaveOccurred(), "from %s", from.Name)
			}
		}
	}, SpecTimeout(10*time.Minute))

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
		for _, from := range m.Nodes {
			if from != lost {
				Eventually(func() (map[string]bool, error) {
					return reached(func() (answer, error) {
						return askWith(from.Namespace, "tcp", service.Spec.ClusterIP+":80", "", glance)
					})
				}).Should(Equal(others))
			}
		}
		return time.Since(start)
	}
	comesBack := func(ctx context.Context) {
		GinkgoHelper()
		for _, from := range m.Nodes {
			Eventually(func() (map[string]bool, error) {
				return reached(func() (answer, error) { return fromNode(from, "http://"+service.Spec.ClusterIP+"/") })
			}).Should(Equal(everybody), "from %s", from.Name)
		}
	}

	It("go on without one that is cut off, and with it again", func(ctx SpecContext) {
		lost := m.Nodes[2]
		Expect(lost.Partition()).To(Succeed())
		took := leaves(lost)
		AddReportEntry("endpoints of a partitioned node left the rules after", took)
		By("whose pods' addresses cannot be reached, as those who have a tunnel to it find out then")
		dead(m.pods[lost.Name].Status.PodIP, m.Nodes[0].Namespace, m.inPod["n1"])
		By("its own pods still reach it")
		a, err := fromPod(lost, "http://"+m.pods[lost.Name].Status.PodIP+":8080/")
		Expect(err).NotTo(HaveOccurred())
		Expect(a.Pod).To(Equal("on-n3"))
		Expect(lost.Heal()).To(Succeed())
		comesBack(ctx)
		for _, pod := range readyPods(ctx, m.Cluster, m.namespace, meshLabels, 3) {
			Expect(pod.UID).To(Equal(m.pods[pod.Spec.NodeName].UID))
			Expect(pod.Status.ContainerStatuses[0].RestartCount).To(BeZero())
		}
	}, SpecTimeout(10*time.Minute))

	It("go on without one that loses its power, and with it again after it has started from its disk", func(ctx SpecContext) {
		lost := m.Nodes[1]
		ran := m.pods[lost.Name]
		Expect(lost.PowerCut()).To(Succeed())
		Expect(lost.Leftovers()).To(BeEmpty(), "a machine without power has no processes and no memory")
		took := leaves(lost)
		AddReportEntry("endpoints of a node without power left the rules after", took)
		By("whose pods' addresses cannot be reached, as who is on one link with it finds out in some seconds")
		dead(ran.Status.PodIP, m.Nodes[0].Namespace, m.inPod["n1"])
		Expect(lost.PowerOn(ctx)).To(Succeed())
		for _, pod := range readyPods(ctx, m.Cluster, m.namespace, meshLabels, 3) {
			m.pods[pod.Spec.NodeName] = pod
		}
		comesBack(ctx)
		By("the pod is the one that ran there, in a container that started after the power's return")
		Expect(lost.WaitReady(ctx, 3*time.Minute)).To(Succeed())
		again := m.pods[lost.Name]
		Expect(again.UID).To(Equal(ran.UID))
		before, after := ran.Status.ContainerStatuses[0], again.Status.ContainerStatuses[0]
		Expect(after.ContainerID).NotTo(Equal(before.ContainerID))
		Expect(after.RestartCount).To(Equal(before.RestartCount + 1))
		Expect(after.LastTerminationState.Terminated).To(HaveValue(And(
			HaveField("ContainerID", before.ContainerID), HaveField("ExitCode", Not(BeZero())))))
		By("what it answers")
		a, err := fromPod(m.Nodes[0], "http://"+again.Status.PodIP+":8080/")
		Expect(err).NotTo(HaveOccurred())
		Expect(a.Pod).To(Equal("on-" + lost.Name))
	}, SpecTimeout(10*time.Minute))
})
