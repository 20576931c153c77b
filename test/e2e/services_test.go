package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/dns"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
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

// outsideNames is where the outside has a DNS server.
const outsideNames = "172.30.0.200:5353"

// Two nodes share a link with the outside, the third is behind a router.
var _ = Describe("services of every type", Ordered, func() {
	m := &mesh{namespace: "services"}

	BeforeAll(func(ctx SpecContext) {
		m.start(ctx, cluster.Options{
			Nodes: 3, Routed: 1, AgentArgs: []string{
				"--stub-domain=corp.example=" + outsideNames,
				"--secure-listen-address=:10352", "--dns-secure-listen-address=:10354", "--logging-format=json",
			},
		}, server, services, labels.Set{"app": "web"})
		Expect(m.outside.RouteTo(netip.MustParseAddr("198.51.100.8"), m.Nodes[1])).To(Succeed())
		Eventually(func() []corev1.LoadBalancerIngress { return m.service(ctx, "guarded").Status.LoadBalancer.Ingress }).Should(HaveLen(3))
	}, NodeTimeout(10*time.Minute))

	AfterEach(m.dump)

	It("are reached over TCP and UDP by pods, nodes and the outside", func(ctx SpecContext) {
		web := m.service(ctx, "web")
		for name, from := range m.everyone() {
			for i, network := range []string{"tcp", "udp"} {
				targets := []string{at(m.Nodes[0].Address, web.Spec.Ports[i].NodePort), at(m.Nodes[2].Address, web.Spec.Ports[i].NodePort)}
				if name == "outside" {
					targets = append(targets, "198.51.100.8:80")
				} else {
					targets = append(targets, web.Spec.ClusterIP+":80")
				}
				for _, target := range targets {
					Eventually(reached(from, network, target)).Should(Equal(m.all()), "from %s", name)
				}
			}
		}
	}, SpecTimeout(10*time.Minute))

	It("keep clients' addresses and the node where externalTrafficPolicy is Local, and tell load balancers", func(ctx SpecContext) {
		edge := m.service(ctx, "edge")
		here, elsewhere := m.Nodes[0], m.Nodes[1]
		for i, network := range []string{"tcp", "udp"} {
			for _, port := range []int32{edge.Spec.Ports[i].NodePort, 8001} {
				Eventually(func() (answer, error) { return ask(m.outside.Namespace, network, at(here.Address, port)) }).
					Should(Equal(answer{"web-n1", m.outside.Address.String(), "my-app:1.0"}))
				Expect(refused(m.outside.Namespace, network, at(elsewhere.Address, port))()).To(dropped, "the next attempt may come to a node that serves")
				By("while clients of a node without endpoints reach them")
				for _, from := range []*cluster.Namespace{elsewhere.Namespace, m.inPod[elsewhere.Name]} {
					Eventually(reached(from, network, at(elsewhere.Address, port))).Should(Equal(map[string]bool{"web-n1": true}))
				}
			}
		}
		health := func(node *cluster.Node) func() (string, error) { return m.health(node, edge.Spec.HealthCheckNodePort) }
		Eventually(health(here)).Should(Equal("200 1"))
		Eventually(health(elsewhere)).Should(Equal("503 0"))
		By("leaving the node out when its endpoint is not ready")
		m.setReady("n1", false)
		Eventually(health(here)).Should(Equal("503 0"))
		Eventually(refused(m.outside.Namespace, "tcp", at(here.Address, 8001))).Should(closed, "there is no endpoint anywhere")
		By("except for a service that publishes such addresses")
		Expect(reached(m.inPod["n3"], "tcp", m.service(ctx, "unready").Spec.ClusterIP+":80")()).To(Equal(map[string]bool{"web-n1": true}))
		m.setReady("n1", true)
		Eventually(health(here)).Should(Equal("200 1"))
		Eventually(func() (answer, error) { return ask(m.outside.Namespace, "tcp", at(here.Address, 8001)) }).
			Should(Equal(answer{"web-n1", m.outside.Address.String(), "my-app:1.0"}))
	}, SpecTimeout(10*time.Minute))

	It("serve a load balancer's sources only", func(SpecContext) {
		for _, node := range m.Nodes {
			Eventually(reached(m.outside.Namespace, "tcp", at(node.Address, 8002))).Should(Equal(m.all()))
		}
		_, err := ask(m.inPod["n1"], "tcp", at(m.Nodes[0].Address, 8002))
		Expect(err).To(HaveOccurred())
	}, SpecTimeout(10*time.Minute))

	It("are led to by names, aliases included", func(SpecContext) {
		for _, name := range []string{"web", "web.services", "alias", "alias.services.svc.cluster.local"} {
			node := m.Nodes[2]
			Eventually(func() (string, error) {
				return tryGet(node, "http://"+m.pods[node.Name].Status.PodIP+":8080/fetch?url=http://"+name+"/")
			}).Should(ContainSubstring(`"pod":"web-`), name)
		}
	}, SpecTimeout(10*time.Minute))

	It("are not asked about domains that others answer for", func(ctx SpecContext) {
		var socket net.PacketConn
		Expect(m.outside.Do(func() (err error) {
			socket, err = net.ListenPacket("udp", outsideNames)
			return err
		})).To(Succeed())
		names := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, request *dns.Msg) {
			answer := new(dns.Msg).SetReply(request)
			if question := request.Question[0]; question.Qtype == dns.TypeA {
				header := dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}
				answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(m.pods["n1"].Status.PodIP)}}
			}
			_ = w.WriteMsg(answer)
		})}
		go func() { _ = names.ActivateAndServe() }()
		DeferCleanup(names.Shutdown)
		for _, node := range m.Nodes {
			Eventually(func() (string, error) {
				return tryGet(node, "http://"+m.pods[node.Name].Status.PodIP+":8080/fetch?url=http://intranet.corp.example:8080/")
			}).Should(ContainSubstring(`"pod":"web-n1"`), "from %s", node.Name)
		}
	}, SpecTimeout(10*time.Minute))

	It("are measured over TLS by who may, and logged for programs where that is asked for", func(ctx SpecContext) {
		node := m.Nodes[1]
		for port, metric := range map[int32]string{10352: "kubeproxy_sync_proxy_rules_duration_seconds", 10354: "coredns_dns_request_duration_seconds"} {
			get := func(path string, identity *rest.Config) func() (string, error) {
				trust, err := rest.TLSConfigFor(identity)
				Expect(err).NotTo(HaveOccurred())
				// The DNS server has a certificate that nobody has signed.
				trust.InsecureSkipVerify = port == 10354
				caller := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: m.outside.DialContext, TLSClientConfig: trust, DisableKeepAlives: true}}
				return func() (string, error) {
					response, err := caller.Get("https://" + at(node.Address, port) + path)
					if err != nil {
						return "", err
					}
					defer response.Body.Close()
					body, err := io.ReadAll(response.Body)
					return fmt.Sprint(response.StatusCode, " ", string(body)), err
				}
			}
			stranger := rest.AnonymousClientConfig(m.Config)
			Eventually(get("/metrics", m.Config)).Should(And(HavePrefix("200 "), ContainSubstring(metric)))
			Eventually(get("/debug/pprof/cmdline", m.Config)).Should(HavePrefix("200 "))
			for _, path := range []string{"/metrics", "/debug/pprof/cmdline"} {
				Expect(get(path, stranger)()).To(Equal("401 Unauthorized\n"), "%d %s", port, path)
			}
		}
		log, err := os.ReadFile(filepath.Join(node.DataDir(), "agent", "dns.log"))
		Expect(err).NotTo(HaveOccurred())
		for line := range strings.Lines(string(log)) {
			said := struct {
				TS  float64 `json:"ts"`
				Msg string  `json:"msg"`
			}{}
			Expect(json.Unmarshal([]byte(line), &said)).To(Succeed(), line)
			Expect(said.TS).NotTo(BeZero(), line)
		}
	}, SpecTimeout(10*time.Minute))

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
		endpoint := func(node string) string { return `{addresses: ["` + m.pods[node].Status.PodIP + `"]}` }
		text := strings.NewReplacer("NAME", "stable", "WEIGHT", "90", "ENDPOINTS", endpoint("n1")).Replace(slice) +
			strings.NewReplacer("NAME", "canary", "WEIGHT", "10", "ENDPOINTS", endpoint("n2")+", "+endpoint("n3")).Replace(slice)
		apply(ctx, m.Cluster, m.namespace, text)
		target := m.service(ctx, "weighted").Spec.ClusterIP + ":80"
		Eventually(reached(m.inPod["n2"], "tcp", target)).Should(HaveLen(3), "both groups are there")
		const n = 1000
		count := map[string]int{}
		for range n {
			a, err := ask(m.inPod["n2"], "tcp", target)
			Expect(err).NotTo(HaveOccurred())
			count[a.Pod]++
		}
		AddReportEntry("of a thousand connections, 900 wanted", count["web-n1"])
		// Five standard deviations.
		Expect(count["web-n1"]).To(BeNumerically("~", n*9/10, 48))
	}, SpecTimeout(10*time.Minute))

	specsOfEndpoints(m)

	It("lead host ports to the pod of the node, with the client's address, until it is gone", func(ctx SpecContext) {
		for _, node := range m.Nodes {
			for _, network := range []string{"tcp", "udp"} {
				Expect(ask(m.outside.Namespace, network, at(node.Address, 18080))).To(Equal(answer{"web-" + node.Name, m.outside.Address.String(), "my-app:1.0"}))
			}
		}
		By("refusing a second pod with the port on the node")
		second := strings.NewReplacer("name: web-NODE", "name: second", "NODE", "n2", "app: web", "app: second").Replace(server)
		apply(ctx, m.Cluster, m.namespace, strings.TrimSuffix(strings.TrimSpace(second), "---"))
		pod := &dcorev1.Pod{}
		Eventually(func(g Gomega) {
			g.Expect(m.Client.Get(ctx, client.ObjectKey{Namespace: m.namespace, Name: "second"}, pod)).To(Succeed())
			g.Expect(pod.Status.Conditions).To(ContainElement(And(
				HaveField("Type", corev1.PodScheduled), HaveField("Message", ContainSubstring("didn't have free ports")))))
		}).Should(Succeed())
		By("giving it to that when the first is gone")
		first := m.pods["n2"]
		Expect(m.Client.Delete(ctx, &first)).To(Succeed())
		Eventually(func() (string, error) {
			a, err := ask(m.outside.Namespace, "tcp", at(m.Nodes[1].Address, 18080))
			return a.Pod, err
		}).Should(Equal("second"))
		Expect(m.Client.Delete(ctx, pod)).To(Succeed())
		Eventually(refused(m.outside.Namespace, "tcp", at(m.Nodes[1].Address, 18080))).Should(closed)
	}, SpecTimeout(10*time.Minute))

	specsOfFlows(m)

	It("repair rules that somebody else deleted", func(ctx SpecContext) {
		web := m.service(ctx, "web")
		node := m.Nodes[2]
		Expect(ask(node.Namespace, "tcp", web.Spec.ClusterIP+":80")).NotTo(BeZero())
		for _, command := range [][]string{
			{"nft", "delete", "table", "ip", "drayage-services"},
			{"nft", "flush", "map", "ip", "drayage-services", "ep"},
		} {
			_, err := node.Exec(ctx, command...)
			Expect(err).NotTo(HaveOccurred())
			Eventually(func() error { _, err := ask(node.Namespace, "tcp", web.Spec.ClusterIP+":80"); return err }).
				Should(Succeed(), "after %s", strings.Join(command, " "))
		}
	}, SpecTimeout(10*time.Minute))

	It("are found broken, in words, by dray net check", func(ctx SpecContext) {
		out, err := m.Dray(ctx, "net", "check")
		Expect(err).NotTo(HaveOccurred(), out)
		Expect(out).To(ContainSubstring("0 of "))
		from, to := "pod/"+m.namespace+"/web-n1", "service/"+m.namespace+"/edge"
		out, err = m.Dray(ctx, "net", "check", "--from", from, "--to", to, "-v")
		Expect(err).NotTo(HaveOccurred(), out)
		Expect(out).To(ContainSubstring("pod services/web-n1 connects to service services/edge at "))
		Expect(out).To(ContainSubstring("pod services/web-n1 resolves edge.services.svc.cluster.local. to "))
		By("an endpoint that is not ready")
		m.setReady("n1", false)
		Eventually(func() string {
			out, _ := m.Dray(ctx, "net", "check", "--from", "node/n3", "--to", to)
			return out
		}).Should(ContainSubstring("BROKEN  Service services/edge has no endpoint: of the 1 pods that its selector place=n1 matches none is Ready (web-n1: "))
		m.setReady("n1", true)
		By("a firewall between nodes")
		for _, command := range []string{"add table ip wall", "add chain ip wall input { type filter hook input priority 0 ; }", "add rule ip wall input udp dport 14789 drop"} {
			_, err := m.Nodes[2].Exec(ctx, append([]string{"nft"}, strings.Fields(command)...)...)
			Expect(err).NotTo(HaveOccurred())
		}
		out, err = m.Dray(ctx, "net", "check", "--from", "node/n1", "--to", "node/n3")
		Expect(err).To(HaveOccurred())
		Expect(out + err.Error()).To(ContainSubstring("The tunnel from node n1 to node n3 carries nothing, although n3 answers at 172.31.0.13: open UDP port 14789"))
		_, err = m.Nodes[2].Exec(ctx, "nft", "delete", "table", "ip", "wall")
		Expect(err).NotTo(HaveOccurred())
	}, SpecTimeout(10*time.Minute))

	It("follow changes of type, ports and deletion", func(ctx SpecContext) {
		address := m.Nodes[0].Address
		patch := func(body string) { m.change(ctx, "alias", body) }
		By("an alias becomes a service with a node port")
		patch(`{"spec":{"type":"NodePort","externalName":null,"selector":{"place":"n3"},"ports":[{"port":80,"targetPort":8080,"nodePort":30123}]}}`)
		Eventually(reached(m.outside.Namespace, "tcp", at(address, 30123))).Should(Equal(map[string]bool{"web-n3": true}))
		Eventually(func() string { return m.service(ctx, "alias").Spec.ClusterIP }).ShouldNot(BeEmpty())
		By("with one more port, and then without the first")
		patch(`{"spec":{"ports":[{"name":"a","port":80,"targetPort":8080,"nodePort":30123},{"name":"b","port":81,"targetPort":8080,"nodePort":30124}]}}`)
		Eventually(reached(m.outside.Namespace, "tcp", at(address, 30124))).Should(HaveLen(1))
		patch(`{"spec":{"ports":[{"name":"b","port":81,"targetPort":8080,"nodePort":30124}]}}`)
		Eventually(refused(m.outside.Namespace, "tcp", at(address, 30123))).Should(closed)
		By("and an alias again")
		patch(`{"spec":{"type":"ExternalName","externalName":"web.services.svc.cluster.local","selector":null,"ports":null}}`)
		Eventually(refused(m.outside.Namespace, "tcp", at(address, 30124))).Should(closed)
		By("a service with an address of its own, and an alias once more")
		patch(`{"spec":{"type":"ClusterIP","externalName":null,"selector":{"place":"n3"},"ports":[{"port":80,"targetPort":8080}]}}`)
		Eventually(func() string { return m.service(ctx, "alias").Spec.ClusterIP }).ShouldNot(BeEmpty())
		own := m.service(ctx, "alias").Spec.ClusterIP + ":80"
		Eventually(reached(m.inPod["n1"], "tcp", own)).Should(Equal(map[string]bool{"web-n3": true}))
		patch(`{"spec":{"type":"ExternalName","externalName":"web.services.svc.cluster.local","clusterIP":null,"selector":null,"ports":null}}`)
		Eventually(refused(m.inPod["n1"], "tcp", own)).Should(unserved)
		Eventually(func() (string, error) {
			return tryGet(m.Nodes[2], "http://"+m.pods["n3"].Status.PodIP+":8080/fetch?url=http://alias/")
		}).Should(ContainSubstring(`"pod":"web-`))
		By("a service is made again")
		Expect(m.Client.Delete(ctx, m.service(ctx, "guarded"))).To(Succeed())
		Eventually(refused(m.outside.Namespace, "tcp", at(address, 8002))).Should(closed)
		apply(ctx, m.Cluster, m.namespace, `{apiVersion: core.drayage.dev/v1, kind: Service, metadata: {name: guarded}, spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 8002, targetPort: 8080}]}}`)
		Eventually(reached(m.inPod["n1"], "tcp", at(address, 8002))).Should(HaveLen(2), "and everybody may come")
	}, SpecTimeout(10*time.Minute))
})
