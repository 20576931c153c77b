package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
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

// server is a pod on a node, with a host port and the label place: NODE.
const server = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: web-NODE, labels: {app: web, place: NODE}}
spec:
  nodeSelector: {kubernetes.io/hostname: NODE}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: my-app:1.0
    ports:
    - {name: http, containerPort: 8080, hostPort: 18080}
    - {name: packets, containerPort: 8080, hostPort: 18080, protocol: UDP}
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, failureThreshold: 1}
---
`

const services = `
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  externalIPs: [198.51.100.8]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: packets, port: 80, targetPort: 8080, protocol: UDP}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: edge}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {place: n1}
  ports:
  - {name: http, port: 8001, targetPort: 8080}
  - {name: packets, port: 8001, targetPort: 8080, protocol: UDP}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: guarded}
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: [OUTSIDE/32, 10.0.0.0/30]
  selector: {app: web}
  ports: [{port: 8002, targetPort: 8080}]
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: unready}
spec:
  publishNotReadyAddresses: true
  selector: {place: n1}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: weighted}
spec:
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.services.svc.cluster.local}
`

// Two nodes share a link with the outside, the third is behind a router.
var _ = Describe("services of every type", Ordered, func() {
	const namespace = "services"
	var (
		many    *cluster.Cluster
		outside *cluster.Outside
		pods    map[string]dcorev1.Pod // by node
		inPod   map[string]*cluster.Namespace
	)
	get := func(ctx context.Context, name string) *dcorev1.Service {
		GinkgoHelper()
		s := &dcorev1.Service{}
		Expect(many.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, s)).To(Succeed())
		return s
	}

	BeforeAll(func(ctx SpecContext) {
		var err error
		many, err = cluster.Start(ctx, cluster.Options{Nodes: 3, Routed: 1})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			Expect(many.Close()).To(Succeed())
			for _, node := range many.Nodes {
				Expect(node.Leftovers()).To(BeEmpty())
			}
		})
		outside, err = many.NewOutside()
		Expect(err).NotTo(HaveOccurred())
		Expect(outside.RouteTo(netip.MustParseAddr("198.51.100.8"), many.Nodes[1])).To(Succeed())
		object := &corev1.Namespace{}
		object.Name = namespace
		Expect(many.Client.Create(ctx, object)).To(Succeed())
		text := ""
		for _, node := range many.Nodes {
			text += strings.ReplaceAll(server, "NODE", node.Name)
		}
		apply(ctx, many, namespace, text+strings.ReplaceAll(services, "OUTSIDE", outside.Address.String()))
		pods, inPod = map[string]dcorev1.Pod{}, map[string]*cluster.Namespace{}
		for _, pod := range readyPods(ctx, many, namespace, labels.Set{"app": "web"}, 3) {
			pods[pod.Spec.NodeName] = pod
		}
		for _, node := range many.Nodes {
			inPod[node.Name], err = node.PodNamespace(pods[node.Name].UID)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(inPod[node.Name].Close)
		}
		Eventually(func() []corev1.LoadBalancerIngress { return get(ctx, "guarded").Status.LoadBalancer.Ingress }).Should(HaveLen(3))
	}, NodeTimeout(4*time.Minute))

	AfterEach(func(ctx SpecContext) {
		if CurrentSpecReport().Failed() {
			describe(ctx, many, namespace)
			fmt.Fprintln(GinkgoWriter, many.Tails(40))
			for _, node := range many.Nodes {
				out, err := node.Exec(ctx, "nft", "list", "table", "ip", "drayage-services")
				fmt.Fprintln(GinkgoWriter, node.Name, out, err)
			}
		}
	})

	type answer struct{ Pod, Client string }
	// ask opens a connection of its own, or sends one datagram.
	ask := func(from *cluster.Namespace, network, address string) (a answer, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		var body []byte
		if network == "udp" {
			conn, err := from.DialContext(ctx, network, address)
			if err != nil {
				return a, err
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
			if _, err := fmt.Fprintln(conn, "who"); err != nil {
				return a, err
			}
			body = make([]byte, 512)
			n, err := conn.Read(body)
			if err != nil {
				return a, err
			}
			body = body[:n]
		} else {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
			if err != nil {
				return a, err
			}
			transport := &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}
			response, err := transport.RoundTrip(request)
			if err != nil {
				return a, err
			}
			defer response.Body.Close()
			if body, err = io.ReadAll(response.Body); err != nil {
				return a, err
			}
		}
		if err := json.Unmarshal(body, &a); err != nil {
			return a, fmt.Errorf("%w: %s", err, body)
		}
		host, _, _ := strings.Cut(a.Client, ":")
		return answer{a.Pod, host}, nil
	}
	// reached asks often and returns who answered.
	reached := func(from *cluster.Namespace, network, address string) func() (map[string]bool, error) {
		return func() (map[string]bool, error) {
			found := map[string]bool{}
			for range 30 {
				a, err := ask(from, network, address)
				if err != nil {
					return found, fmt.Errorf("%s %s: %w", network, address, err)
				}
				found[a.Pod] = true
			}
			return found, nil
		}
	}
	all := map[string]bool{"web-n1": true, "web-n2": true, "web-n3": true}
	// everyone are a pod and a process of each node, and the outside.
	everyone := func() map[string]*cluster.Namespace {
		from := map[string]*cluster.Namespace{"outside": outside.Namespace}
		for _, node := range many.Nodes {
			from[node.Name], from["pod of "+node.Name] = node.Namespace, inPod[node.Name]
		}
		return from
	}
	at := func(address any, port int32) string { return fmt.Sprintf("%s:%d", address, port) }
	setReady := func(node string, is bool) {
		GinkgoHelper()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:8080/ready/%t", pods[node].Status.PodIP, is), nil)
		Expect(err).NotTo(HaveOccurred())
		response, err := (&http.Transport{DialContext: many.Nodes[0].Namespace.DialContext, DisableKeepAlives: true}).RoundTrip(request)
		Expect(err).NotTo(HaveOccurred())
		Expect(response.Body.Close()).To(Succeed())
	}

	It("are reached over TCP and UDP by pods, nodes and the outside", func(ctx SpecContext) {
		web := get(ctx, "web")
		for name, from := range everyone() {
			for i, network := range []string{"tcp", "udp"} {
				targets := []string{at(many.Nodes[0].Address, web.Spec.Ports[i].NodePort), at(many.Nodes[2].Address, web.Spec.Ports[i].NodePort)}
				if name == "outside" {
					targets = append(targets, "198.51.100.8:80")
				} else {
					targets = append(targets, web.Spec.ClusterIP+":80")
				}
				for _, target := range targets {
					Eventually(reached(from, network, target)).Should(Equal(all), "from %s", name)
				}
			}
		}
	}, SpecTimeout(3*time.Minute))

	It("keep clients' addresses and the node where externalTrafficPolicy is Local, and tell load balancers", func(ctx SpecContext) {
		edge := get(ctx, "edge")
		here, elsewhere := many.Nodes[0], many.Nodes[1]
		for i, network := range []string{"tcp", "udp"} {
			for _, port := range []int32{edge.Spec.Ports[i].NodePort, 8001} {
				Eventually(func() (answer, error) { return ask(outside.Namespace, network, at(here.Address, port)) }).
					Should(Equal(answer{"web-n1", outside.Address.String()}))
				_, err := ask(outside.Namespace, network, at(elsewhere.Address, port))
				Expect(err).To(MatchError(Or(ContainSubstring("deadline exceeded"), ContainSubstring("i/o timeout"))), "dropped: the next attempt may come to a node that serves")
				By("while clients of a node without endpoints reach them")
				for _, from := range []*cluster.Namespace{elsewhere.Namespace, inPod[elsewhere.Name]} {
					Eventually(reached(from, network, at(elsewhere.Address, port))).Should(Equal(map[string]bool{"web-n1": true}))
				}
			}
		}
		health := func(node *cluster.Node) func() (string, error) {
			return func() (string, error) {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at(node.Address, edge.Spec.HealthCheckNodePort), nil)
				if err != nil {
					return "", err
				}
				response, err := (&http.Transport{DialContext: outside.DialContext, DisableKeepAlives: true}).RoundTrip(request)
				if err != nil {
					return "", err
				}
				defer response.Body.Close()
				said := struct{ LocalEndpoints int }{-1}
				err = json.NewDecoder(response.Body).Decode(&said)
				return fmt.Sprint(response.StatusCode, " ", said.LocalEndpoints), err
			}
		}
		Eventually(health(here)).Should(Equal("200 1"))
		Eventually(health(elsewhere)).Should(Equal("503 0"))
		By("leaving the node out when its endpoint is not ready")
		setReady("n1", false)
		Eventually(health(here)).Should(Equal("503 0"))
		Eventually(func() error { _, err := ask(outside.Namespace, "tcp", at(here.Address, 8001)); return err }).
			Should(MatchError(ContainSubstring("connection refused")), "there is no endpoint anywhere")
		By("except for a service that publishes such addresses")
		Expect(reached(inPod["n3"], "tcp", get(ctx, "unready").Spec.ClusterIP+":80")()).To(Equal(map[string]bool{"web-n1": true}))
		setReady("n1", true)
		Eventually(health(here)).Should(Equal("200 1"))
		Eventually(func() (answer, error) { return ask(outside.Namespace, "tcp", at(here.Address, 8001)) }).
			Should(Equal(answer{"web-n1", outside.Address.String()}))
	}, SpecTimeout(3*time.Minute))

	It("serve a load balancer's sources only", func(SpecContext) {
		for _, node := range many.Nodes {
			Eventually(reached(outside.Namespace, "tcp", at(node.Address, 8002))).Should(Equal(all))
		}
		_, err := ask(inPod["n1"], "tcp", at(many.Nodes[0].Address, 8002))
		Expect(err).To(HaveOccurred())
	}, SpecTimeout(2*time.Minute))

	It("are led to by names, aliases included", func(SpecContext) {
		for _, name := range []string{"web", "web.services", "alias", "alias.services.svc.cluster.local"} {
			node := many.Nodes[2]
			Eventually(func() (string, error) {
				return tryGet(node, "http://"+pods[node.Name].Status.PodIP+":8080/fetch?url=http://"+name+"/")
			}).Should(ContainSubstring(`"pod":"web-`), name)
		}
	}, SpecTimeout(time.Minute))

	It("divide connections by weights, group before endpoint", func(ctx SpecContext) {
		slice := `
apiVersion: discovery.drayage.dev/v1
kind: EndpointSlice
metadata:
  name: weighted-NAME
  labels: {kubernetes.io/service-name: weighted, networking.drayage.dev/group: NAME}
  annotations: {networking.drayage.dev/weight: "WEIGHT"}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints: [ENDPOINTS]
---
`
		endpoint := func(node string) string { return `{addresses: ["` + pods[node].Status.PodIP + `"]}` }
		text := strings.NewReplacer("NAME", "stable", "WEIGHT", "90", "ENDPOINTS", endpoint("n1")).Replace(slice) +
			strings.NewReplacer("NAME", "canary", "WEIGHT", "10", "ENDPOINTS", endpoint("n2")+", "+endpoint("n3")).Replace(slice)
		apply(ctx, many, namespace, text)
		target := get(ctx, "weighted").Spec.ClusterIP + ":80"
		Eventually(reached(inPod["n2"], "tcp", target)).Should(HaveKey("web-n1"))
		const n = 1000
		count := map[string]int{}
		for range n {
			a, err := ask(inPod["n2"], "tcp", target)
			Expect(err).NotTo(HaveOccurred())
			count[a.Pod]++
		}
		AddReportEntry("of a thousand connections, 900 wanted", count["web-n1"])
		// Five standard deviations.
		Expect(count["web-n1"]).To(BeNumerically("~", n*9/10, 48))
	}, SpecTimeout(2*time.Minute))

	It("lead host ports to the pod of the node, with the client's address, until it is gone", func(ctx SpecContext) {
		for _, node := range many.Nodes {
			for _, network := range []string{"tcp", "udp"} {
				Expect(ask(outside.Namespace, network, at(node.Address, 18080))).To(Equal(answer{"web-" + node.Name, outside.Address.String()}))
			}
		}
		By("refusing a second pod with the port on the node")
		second := strings.NewReplacer("name: web-NODE", "name: second", "NODE", "n2", "app: web", "app: second").Replace(server)
		apply(ctx, many, namespace, strings.TrimSuffix(strings.TrimSpace(second), "---"))
		pod := &dcorev1.Pod{}
		Eventually(func(g Gomega) {
			g.Expect(many.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "second"}, pod)).To(Succeed())
			g.Expect(pod.Status.Conditions).To(ContainElement(And(
				HaveField("Type", corev1.PodScheduled), HaveField("Message", ContainSubstring("didn't have free ports")))))
		}).Should(Succeed())
		By("giving it to that when the first is gone")
		first := pods["n2"]
		Expect(many.Client.Delete(ctx, &first)).To(Succeed())
		Eventually(func() (string, error) {
			a, err := ask(outside.Namespace, "tcp", at(many.Nodes[1].Address, 18080))
			return a.Pod, err
		}).Should(Equal("second"))
		Expect(many.Client.Delete(ctx, pod)).To(Succeed())
		Eventually(func() error { _, err := ask(outside.Namespace, "tcp", at(many.Nodes[1].Address, 18080)); return err }).
			Should(MatchError(ContainSubstring("connection refused")))
	}, SpecTimeout(3*time.Minute))

	It("move UDP flows to who serves now", func(ctx SpecContext) {
		web := get(ctx, "web")
		conn, err := inPod["n1"].DialContext(ctx, "udp", web.Spec.ClusterIP+":80")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(conn.Close)
		flow := func() string {
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			body := make([]byte, 512)
			if _, err := fmt.Fprintln(conn, "who"); err != nil {
				return err.Error()
			}
			n, err := conn.Read(body)
			if err != nil {
				return err.Error()
			}
			a := answer{}
			_ = json.Unmarshal(body[:n], &a)
			return a.Pod
		}
		var one string
		Eventually(func() string { one = flow(); return one }).Should(BeElementOf("web-n1", "web-n3"))
		node := strings.TrimPrefix(one, "web-")
		setReady(node, false)
		Eventually(flow).Should(And(HavePrefix("web-"), Not(Equal(one))))
		setReady(node, true)
	}, SpecTimeout(time.Minute))

	It("repair rules that somebody else deleted", func(ctx SpecContext) {
		web := get(ctx, "web")
		node := many.Nodes[2]
		Expect(ask(node.Namespace, "tcp", web.Spec.ClusterIP+":80")).NotTo(BeZero())
		for _, command := range [][]string{
			{"nft", "delete", "table", "ip", "drayage-services"},
			{"nft", "flush", "map", "ip", "drayage-services", "ep"},
		} {
			_, err := node.Exec(ctx, command...)
			Expect(err).NotTo(HaveOccurred())
			Eventually(func() error { _, err := ask(node.Namespace, "tcp", web.Spec.ClusterIP+":80"); return err }).
				WithTimeout(20*time.Second).Should(Succeed(), "after %s", strings.Join(command, " "))
		}
	}, SpecTimeout(2*time.Minute))

	It("are found broken, in words, by dray net check", func(ctx SpecContext) {
		out, err := many.Dray(ctx, "net", "check")
		Expect(err).NotTo(HaveOccurred(), out)
		Expect(out).To(ContainSubstring("0 of "))
		from, to := "pod/"+namespace+"/web-n1", "service/"+namespace+"/edge"
		out, err = many.Dray(ctx, "net", "check", "--from", from, "--to", to, "-v")
		Expect(err).NotTo(HaveOccurred(), out)
		Expect(out).To(ContainSubstring("pod services/web-n1 connects to service services/edge at "))
		Expect(out).To(ContainSubstring("pod services/web-n1 resolves edge.services.svc.cluster.local. to "))
		By("an endpoint that is not ready")
		setReady("n1", false)
		Eventually(func() string {
			out, _ := many.Dray(ctx, "net", "check", "--from", "node/n3", "--to", to)
			return out
		}).Should(ContainSubstring("BROKEN  Service services/edge has no endpoint: of the 1 pods that its selector place=n1 matches none is Ready (web-n1: "))
		setReady("n1", true)
		By("a firewall between nodes")
		for _, command := range []string{"add table ip wall", "add chain ip wall input { type filter hook input priority 0 ; }", "add rule ip wall input udp dport 14789 drop"} {
			_, err := many.Nodes[2].Exec(ctx, append([]string{"nft"}, strings.Fields(command)...)...)
			Expect(err).NotTo(HaveOccurred())
		}
		out, err = many.Dray(ctx, "net", "check", "--from", "node/n1", "--to", "node/n3")
		Expect(err).To(HaveOccurred())
		Expect(out + err.Error()).To(ContainSubstring("The tunnel from node n1 to node n3 carries nothing, although n3 answers at 172.31.0.13: open UDP port 14789"))
		_, err = many.Nodes[2].Exec(ctx, "nft", "delete", "table", "ip", "wall")
		Expect(err).NotTo(HaveOccurred())
	}, SpecTimeout(2*time.Minute))

	It("follow changes of type, ports and deletion", func(ctx SpecContext) {
		address := many.Nodes[0].Address
		patch := func(body string) {
			GinkgoHelper()
			_, err := many.Kubectl(ctx, "patch", "services.core.drayage.dev", "alias", "-n", namespace, "--type=merge", "-p", body)
			Expect(err).NotTo(HaveOccurred())
		}
		By("an alias becomes a service with a node port")
		patch(`{"spec":{"type":"NodePort","externalName":null,"selector":{"place":"n3"},"ports":[{"port":80,"targetPort":8080,"nodePort":30123}]}}`)
		Eventually(reached(outside.Namespace, "tcp", at(address, 30123))).Should(Equal(map[string]bool{"web-n3": true}))
		Eventually(func() string { return get(ctx, "alias").Spec.ClusterIP }).ShouldNot(BeEmpty())
		By("with one more port, and then without the first")
		patch(`{"spec":{"ports":[{"name":"a","port":80,"targetPort":8080,"nodePort":30123},{"name":"b","port":81,"targetPort":8080,"nodePort":30124}]}}`)
		Eventually(reached(outside.Namespace, "tcp", at(address, 30124))).Should(HaveLen(1))
		patch(`{"spec":{"ports":[{"name":"b","port":81,"targetPort":8080,"nodePort":30124}]}}`)
		Eventually(func() error { _, err := ask(outside.Namespace, "tcp", at(address, 30123)); return err }).Should(MatchError(ContainSubstring("connection refused")))
		By("and an alias again")
		patch(`{"spec":{"type":"ExternalName","externalName":"web.services.svc.cluster.local","selector":null,"ports":null}}`)
		Eventually(func() error { _, err := ask(outside.Namespace, "tcp", at(address, 30124)); return err }).Should(MatchError(ContainSubstring("connection refused")))
		By("a service is made again")
		Expect(many.Client.Delete(ctx, get(ctx, "guarded"))).To(Succeed())
		Eventually(func() error { _, err := ask(outside.Namespace, "tcp", at(address, 8002)); return err }).Should(MatchError(ContainSubstring("connection refused")))
		apply(ctx, many, namespace, `{apiVersion: core.drayage.dev/v1, kind: Service, metadata: {name: guarded}, spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 8002, targetPort: 8080}]}}`)
		Eventually(reached(inPod["n1"], "tcp", at(address, 8002))).Should(HaveLen(2), "and everybody may come")
	}, SpecTimeout(3*time.Minute))
})
