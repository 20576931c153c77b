package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/cluster"
)

// named is a service whose port has another number in each of two pods; one has it in a sidecar.
const named = `
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: named}
spec:
  selector: {app: named}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: packets, port: 80, targetPort: packets, protocol: UDP}
`

const plain = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: plain, labels: {app: named}}
spec:
  nodeSelector: {kubernetes.io/hostname: n3}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: my-app:1.0
    ports: [{name: http, containerPort: 8080}, {name: packets, containerPort: 8080, protocol: UDP}]
`

const sided = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: sided, labels: {app: named}}
spec:
  nodeSelector: {kubernetes.io/hostname: n2}
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: side
    image: my-app:2.0
    restartPolicy: Always
    env: [{name: DEMO_LISTEN, value: ":9090"}]
    ports: [{name: http, containerPort: 9090}, {name: packets, containerPort: 9090, protocol: UDP}]
  containers:
  - {name: web, image: my-app:1.0}
`

const sticky = `
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: sticky}
spec:
  type: LoadBalancer
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 3}}
  selector: {app: web}
  ports:
  - {name: http, port: 8003, targetPort: 8080}
  - {name: packets, port: 8003, targetPort: 8080, protocol: UDP}
`

// leaving is a pod that takes its time to end, behind a service of each policy.
const leaving = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: leaving, labels: {app: leaving}}
spec:
  nodeSelector: {kubernetes.io/hostname: n2}
  terminationGracePeriodSeconds: 120
  containers:
  - name: web
    image: my-app:1.0
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
    lifecycle: {preStop: {sleep: {seconds: 110}}}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: leaving}
spec: {type: NodePort, selector: {app: leaving}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: leaving-edge}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: leaving}, ports: [{port: 8004, targetPort: 8080}]}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: leaving-near}
spec: {internalTrafficPolicy: Local, selector: {app: leaving}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: leaving-shown}
spec: {type: NodePort, publishNotReadyAddresses: true, selector: {app: leaving}, ports: [{port: 80, targetPort: 8080}]}
`

// hostly is a pod in its node's network, behind two services.
const hostly = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: hostly, labels: {app: hostly}}
spec:
  hostNetwork: true
  nodeSelector: {kubernetes.io/hostname: n3}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: my-app:1.0, env: [{name: DEMO_LISTEN, value: ":18090"}], ports: [{name: http, containerPort: 18090}]}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: hostly}
spec: {type: NodePort, selector: {app: hostly}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: hostly-near}
spec: {internalTrafficPolicy: Local, selector: {app: hostly}, ports: [{port: 80, targetPort: http}]}
`

// porter has a port of the node for a protocol.
const porter = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: by-NAME, labels: {app: porter}}
spec:
  nodeSelector: {kubernetes.io/hostname: n1}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: my-app:1.0, ports: [{containerPort: 8080, hostPort: 18081, hostIP: ADDRESS, protocol: PROTOCOL}]}
---
`

// health asks a node's health check port from outside.
func (m *mesh) health(node *cluster.Node, port int32) func() (string, error) {
	return func() (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at(node.Address, port), nil)
		if err != nil {
			return "", err
		}
		response, err := (&http.Transport{DialContext: m.outside.DialContext, DisableKeepAlives: true}).RoundTrip(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		said := struct{ LocalEndpoints int }{-1}
		err = json.NewDecoder(response.Body).Decode(&said)
		return fmt.Sprint(response.StatusCode, " ", said.LocalEndpoints), err
	}
}

var (
	closed = MatchError(ContainSubstring("connection refused"))
	// unserved is what becomes of a port that no service has at an address of the range: the kernel answers that it
	// cannot be reached, but not more often than about once a second.
	unserved = MatchError(Or(ContainSubstring("no route to host"), ContainSubstring("deadline exceeded"), ContainSubstring("i/o timeout")))
	dropped  = MatchError(Or(ContainSubstring("deadline exceeded"), ContainSubstring("i/o timeout")))
)

// specsOfEndpoints are cases of who serves, out of upstream's list; see docs/upstream-service-tests.md.
func specsOfEndpoints(m *mesh) {
	only := func(pods ...string) map[string]bool {
		names := map[string]bool{}
		for _, pod := range pods {
			names[pod] = true
		}
		return names
	}
	// remove deletes pods and services of a spec.
	remove := func(ctx context.Context, manifest string) {
		GinkgoHelper()
		_, err := m.Kubectl(ctx, "delete", "-n", m.namespace, "--wait=false", "-f", file(manifest))
		Expect(err).NotTo(HaveOccurred())
	}

	It("lead to a named port wherever each pod has it, sidecars too, and follow pods that come and go", func(ctx SpecContext) {
		apply(ctx, m.Cluster, m.namespace, named)
		Eventually(func() string { return m.service(ctx, "named").Spec.ClusterIP }).ShouldNot(BeEmpty())
		target := m.service(ctx, "named").Spec.ClusterIP + ":80"
		froms := []*cluster.Namespace{m.inPod["n1"], m.Nodes[2].Namespace}
		lead := func(pods ...string) {
			GinkgoHelper()
			for _, from := range froms {
				for _, network := range []string{"tcp", "udp"} {
					Eventually(reached(from, network, target)).Should(Equal(only(pods...)), network)
				}
			}
		}
		for _, network := range []string{"tcp", "udp"} {
			Eventually(refused(m.inPod["n1"], network, target)).Should(closed)
		}
		apply(ctx, m.Cluster, m.namespace, plain)
		lead("plain")
		apply(ctx, m.Cluster, m.namespace, sided)
		lead("plain", "sided")
		remove(ctx, plain)
		lead("sided")

		By("moving a flow of datagrams when the port in the pod is another")
		conn, err := m.inPod["n1"].DialContext(ctx, "udp", target)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(conn.Close)
		image := func() (string, error) {
			a, err := askOn(conn, "")
			return a.Image, err
		}
		Eventually(image).Should(Equal("my-app:2.0"))
		m.change(ctx, "named", `{"spec":{"ports":[{"name":"packets","port":80,"targetPort":8080,"protocol":"UDP"}]}}`)
		Eventually(image).Should(Equal("my-app:1.0"))
		Eventually(refused(m.inPod["n1"], "tcp", target)).Should(unserved, "the port for TCP is gone")
		By("and leaving TCP alone where the one for datagrams goes")
		m.change(ctx, "named", `{"spec":{"ports":[{"name":"http","port":80,"targetPort":"http"}]}}`)
		Eventually(reached(m.inPod["n1"], "tcp", target)).Should(Equal(only("sided")))
		Eventually(refused(m.inPod["n1"], "udp", target)).Should(unserved)
		remove(ctx, sided)
		Eventually(refused(m.inPod["n1"], "tcp", target)).Should(closed)
	}, SpecTimeout(10*time.Minute))

	It("carry requests that are larger than packets", func(ctx SpecContext) {
		target := m.service(ctx, "web").Spec.ClusterIP + ":80"
		for network, more := range map[string]string{"tcp": strings.Repeat("x", 100_000), "udp": strings.Repeat("x", 8_000)} {
			Eventually(func() (map[string]bool, error) {
				found := map[string]bool{}
				for range 30 {
					a, err := askWith(m.inPod["n1"], network, target, more, patience)
					if err != nil {
						return found, err
					}
					found[a.Pod] = true
				}
				return found, nil
			}).Should(Equal(m.all()), network)
		}
	}, SpecTimeout(10*time.Minute))

	It("keep a client where it was for as long as they say, by every way, and let it go", func(ctx SpecContext) {
		apply(ctx, m.Cluster, m.namespace, sticky)
		Eventually(func() int32 { return m.service(ctx, "sticky").Spec.Ports[1].NodePort }).ShouldNot(BeZero())
		service := m.service(ctx, "sticky")
		ways := map[string]struct {
			from    *cluster.Namespace
			network string
			target  string
		}{
			"cluster address":                {m.inPod["n1"], "tcp", service.Spec.ClusterIP + ":8003"},
			"cluster address, datagrams":     {m.inPod["n3"], "udp", service.Spec.ClusterIP + ":8003"},
			"node port":                      {m.outside.Namespace, "tcp", at(m.Nodes[0].Address, service.Spec.Ports[0].NodePort)},
			"node port, datagrams":           {m.outside.Namespace, "udp", at(m.Nodes[0].Address, service.Spec.Ports[1].NodePort)},
			"balancer's address of the node": {m.outside.Namespace, "tcp", at(m.Nodes[1].Address, 8003)},
		}
		kept := func(n int) {
			GinkgoHelper()
			for name, way := range ways {
				Eventually(reached(way.from, way.network, way.target)).Should(HaveLen(n), name)
			}
		}
		kept(1)
		By("for its time only")
		way := ways["node port"]
		first, err := ask(way.from, way.network, way.target)
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() (string, error) {
			a, err := ask(way.from, way.network, way.target)
			return a.Pod, err
		}).WithPolling(3500 * time.Millisecond).ShouldNot(Equal(first.Pod))
		By("not when that is switched off, and again when it is on")
		m.change(ctx, "sticky", `{"spec":{"sessionAffinity":"None","sessionAffinityConfig":null}}`)
		kept(3)
		m.change(ctx, "sticky", `{"spec":{"sessionAffinity":"ClientIP"}}`)
		kept(1)
		remove(ctx, sticky)
	}, SpecTimeout(10*time.Minute))

	It("change whom externalTrafficPolicy leads where, and the health check port with it", func(ctx SpecContext) {
		edge := m.service(ctx, "edge")
		here, elsewhere, port := m.Nodes[0], m.Nodes[1], edge.Spec.HealthCheckNodePort
		Eventually(m.health(here, port)).Should(Equal("200 1"))
		m.change(ctx, "edge", `{"spec":{"externalTrafficPolicy":"Cluster","healthCheckNodePort":null}}`)
		for _, node := range m.Nodes {
			Eventually(func() error { _, err := m.health(node, port)(); return err }).Should(closed)
			Eventually(func() (answer, error) {
				return ask(m.outside.Namespace, "tcp", at(node.Address, edge.Spec.Ports[0].NodePort))
			}).
				Should(And(HaveField("Pod", "web-n1"), HaveField("Client", Not(Equal(m.outside.Address.String())))))
		}
		m.change(ctx, "edge", fmt.Sprintf(`{"spec":{"externalTrafficPolicy":"Local","healthCheckNodePort":%d}}`, port))
		Eventually(m.health(here, port)).Should(Equal("200 1"))
		Eventually(m.health(elsewhere, port)).Should(Equal("503 0"))
		Eventually(refused(m.outside.Namespace, "tcp", at(elsewhere.Address, 8001))).Should(dropped)
		Eventually(func() (answer, error) { return ask(m.outside.Namespace, "tcp", at(here.Address, 8001)) }).
			Should(HaveField("Client", m.outside.Address.String()))
	}, SpecTimeout(10*time.Minute))

	It("fall back to a pod that is ending where nobody else serves, and to an unready one only where they publish it", func(ctx SpecContext) {
		apply(ctx, m.Cluster, m.namespace, leaving)
		pod := &dcorev1.Pod{}
		Eventually(func(g Gomega) {
			g.Expect(m.Client.Get(ctx, client.ObjectKey{Namespace: m.namespace, Name: "leaving"}, pod)).To(Succeed())
			g.Expect(ready(pod)).To(BeTrue())
		}).Should(Succeed())
		any, edge := m.service(ctx, "leaving"), m.service(ctx, "leaving-edge")
		near, shown := m.service(ctx, "leaving-near"), m.service(ctx, "leaving-shown")
		here, elsewhere := m.Nodes[1], m.Nodes[0]
		answers := func() {
			GinkgoHelper()
			for name, way := range map[string]struct {
				from   *cluster.Namespace
				target string
			}{
				"cluster address":                         {m.inPod["n3"], any.Spec.ClusterIP + ":80"},
				"node port":                               {m.outside.Namespace, at(elsewhere.Address, any.Spec.Ports[0].NodePort)},
				"node port, traffic kept on the node":     {m.outside.Namespace, at(here.Address, edge.Spec.Ports[0].NodePort)},
				"balancer's, traffic kept on the node":    {m.outside.Namespace, at(here.Address, 8004)},
				"balancer's, by a client of another node": {elsewhere.Namespace, at(elsewhere.Address, 8004)},
				"cluster address, kept on the node":       {m.inPod["n2"], near.Spec.ClusterIP + ":80"},
			} {
				Eventually(refused(way.from, "tcp", way.target)).Should(MatchError("leaving answers"), name)
			}
			Eventually(refused(m.outside.Namespace, "tcp", at(elsewhere.Address, 8004))).Should(dropped)
			Eventually(refused(m.inPod["n1"], "tcp", near.Spec.ClusterIP+":80")).Should(closed)
		}
		answers()
		Eventually(m.health(here, edge.Spec.HealthCheckNodePort)).Should(Equal("200 1"))

		By("while it is ending")
		Expect(m.Client.Delete(ctx, pod)).To(Succeed())
		Eventually(m.health(here, edge.Spec.HealthCheckNodePort)).Should(Equal("503 0"), "balancers send no more")
		answers()

		By("which connects, and is connected to, as before")
		Expect(ask(m.inPod["n1"], "tcp", at(pod.Status.PodIP, 8080))).To(HaveField("Pod", "leaving"))
		Expect(tryGet(here, "http://"+pod.Status.PodIP+":8080/fetch?url=http://"+at(m.pods["n1"].Status.PodIP, 8080)+"/")).To(ContainSubstring(`"pod":"web-n1"`))

		By("when it is not ready, either")
		setReadyAt(here, pod.Status.PodIP, false)
		for name, way := range map[string]struct {
			from   *cluster.Namespace
			target string
		}{
			"cluster address":                      {m.inPod["n3"], any.Spec.ClusterIP + ":80"},
			"node port":                            {m.outside.Namespace, at(elsewhere.Address, any.Spec.Ports[0].NodePort)},
			"balancer's, traffic kept on the node": {m.outside.Namespace, at(here.Address, 8004)},
			"cluster address, kept on the node":    {m.inPod["n2"], near.Spec.ClusterIP + ":80"},
		} {
			Eventually(refused(way.from, "tcp", way.target)).Should(closed, name)
		}
		Expect(ask(m.inPod["n1"], "tcp", shown.Spec.ClusterIP+":80")).To(HaveField("Pod", "leaving"))
		Expect(ask(m.outside.Namespace, "tcp", at(here.Address, shown.Spec.Ports[0].NodePort))).To(HaveField("Pod", "leaving"))
		Expect(m.Dray(ctx, "delete", "dpo", "leaving", "-n", m.namespace, "--grace-period=0", "--force")).Error().NotTo(HaveOccurred())
		Eventually(refused(m.inPod["n1"], "tcp", shown.Spec.ClusterIP+":80")).Should(closed)
	}, SpecTimeout(10*time.Minute))

	It("lead to pods in the host's network, near ones where they say so", func(ctx SpecContext) {
		apply(ctx, m.Cluster, m.namespace, hostly)
		Eventually(func() string { return m.service(ctx, "hostly-near").Spec.ClusterIP }).ShouldNot(BeEmpty())
		any, near := m.service(ctx, "hostly"), m.service(ctx, "hostly-near").Spec.ClusterIP+":80"
		for name, from := range m.everyone() {
			target := any.Spec.ClusterIP + ":80"
			if from == m.outside.Namespace {
				target = at(m.Nodes[0].Address, any.Spec.Ports[0].NodePort)
			}
			Eventually(func() error { _, err := ask(from, "tcp", target); return err }).Should(Succeed(), name)
		}
		for _, from := range []*cluster.Namespace{m.inPod["n3"], m.Nodes[2].Namespace} {
			Eventually(func() error { _, err := ask(from, "tcp", near); return err }).Should(Succeed())
		}
		for _, from := range []*cluster.Namespace{m.inPod["n1"], m.Nodes[0].Namespace} {
			Eventually(refused(from, "tcp", near)).Should(closed)
		}
		remove(ctx, hostly)
	}, SpecTimeout(10*time.Minute))

	It("are not in the way of host ports, which pods share by protocol and address", func(ctx SpecContext) {
		text := ""
		for _, protocol := range []string{"TCP", "UDP"} {
			text += strings.NewReplacer("NAME", strings.ToLower(protocol), "PROTOCOL", protocol, "ADDRESS", m.Nodes[0].Address.String()).Replace(porter)
		}
		apply(ctx, m.Cluster, m.namespace, text)
		for _, network := range []string{"tcp", "udp"} {
			for name, from := range map[string]*cluster.Namespace{"outside": m.outside.Namespace, "the node": m.Nodes[0].Namespace, "a pod": m.inPod["n3"]} {
				Eventually(reached(from, network, at(m.Nodes[0].Address, 18081))).Should(Equal(only("by-"+network)), "%s from %s", network, name)
			}
		}
		remove(ctx, text)
	}, SpecTimeout(10*time.Minute))
}

// specsOfFlows are those of datagrams, whose flows the kernel remembers.
func specsOfFlows(m *mesh) {
	It("move UDP flows to who serves now, of pods, nodes and the outside", func(ctx SpecContext) {
		web := m.service(ctx, "web")
		flows := map[string]net.Conn{}
		for name, way := range map[string]struct {
			from   *cluster.Namespace
			target string
		}{
			"pod":              {m.inPod["n1"], web.Spec.ClusterIP + ":80"},
			"node":             {m.Nodes[0].Namespace, web.Spec.ClusterIP + ":80"},
			"node elsewhere":   {m.Nodes[2].Namespace, web.Spec.ClusterIP + ":80"},
			"node port":        {m.outside.Namespace, at(m.Nodes[0].Address, web.Spec.Ports[1].NodePort)},
			"external address": {m.outside.Namespace, "198.51.100.8:80"},
		} {
			conn, err := way.from.DialContext(ctx, "udp", way.target)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(conn.Close)
			flows[name] = conn
		}
		all := func(pod string) {
			GinkgoHelper()
			for name, conn := range flows {
				Eventually(func() (string, error) {
					a, err := askOn(conn, "")
					return a.Pod, err
				}).Should(Equal(pod), name)
			}
		}
		m.setReady("n1", false)
		all("web-n3")
		m.setReady("n1", true)
		Eventually(reached(m.inPod["n1"], "udp", web.Spec.ClusterIP+":80")).Should(HaveLen(2))
		m.setReady("n3", false)
		all("web-n1")

		By("to the first one that is ready, when there was none")
		m.setReady("n1", false)
		for name, conn := range flows {
			Eventually(func() error { _, err := askOn(conn, ""); return err }).Should(HaveOccurred(), name)
		}
		m.setReady("n3", true)
		all("web-n3")
		m.setReady("n1", true)
	}, SpecTimeout(10*time.Minute))
}
