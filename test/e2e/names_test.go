package e2e_test

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/labels"
)

// resolvers are pods that resolve names in ways of their own.
const resolvers = `
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: family}
spec: {clusterIP: None, selector: {app: resolver}}
---
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: own, labels: {app: resolver}}
spec:
  dnsPolicy: None
  dnsConfig:
    nameservers: [192.0.2.1]
    searches: [resolv.conf.local]
    options: [{name: ndots, value: "2"}]
  containers: [{name: tool, image: busybox, command: [sleep, infinity]}]
---
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: wide, labels: {app: resolver}}
spec:
  dnsConfig: {searches: [., _sip._tcp.abc_d.example.com, SEARCHES]}
  containers: [{name: tool, image: busybox, command: [sleep, infinity]}]
---
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: guest, labels: {app: resolver}}
spec:
  hostname: not-mine
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  containers: [{name: tool, image: busybox, command: [sleep, infinity]}]
---
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: child, labels: {app: resolver}}
spec:
  hostname: querier
  subdomain: family
  hostAliases: [{ip: 192.0.2.7, hostnames: [alias.example]}]
  containers: [{name: tool, image: busybox, command: [sleep, infinity]}]
`

var _ = Describe("names", func() {
	It("are resolved as each pod's specification says", func(ctx SpecContext) {
		namespace := newNamespace(ctx, c)
		var searches []string
		for _, letter := range "abcdefgh" {
			searches = append(searches, strings.Repeat(string(letter), 40)+".example")
		}
		apply(ctx, c, namespace, strings.ReplaceAll(resolvers, "SEARCHES", strings.Join(searches, ", ")))
		pods := readyPods(ctx, c, namespace, labels.Set{"app": "resolver"}, 4)
		run := func(pod string, command ...string) string {
			GinkgoHelper()
			return execIn(ctx, c, namespace, pod, "tool", command...)
		}
		file := func(pod string) []string {
			GinkgoHelper()
			return strings.Split(strings.TrimSpace(run(pod, "cat", "/etc/resolv.conf")), "\n")
		}
		of := namespace + ".svc.cluster.local"
		cluster := "search " + of + " svc.cluster.local cluster.local"

		By("by nothing but its own servers")
		Expect(file("own")).To(ConsistOf("search resolv.conf.local", "nameserver 192.0.2.1", "options ndots:2"))
		By("with more domains to search than six, an underscore and a dot")
		Expect(file("wide")).To(ContainElements(cluster+" . _sip._tcp.abc_d.example.com "+strings.Join(searches, " "), "nameserver 10.96.0.10"))
		Expect(run("wide", "nslookup", "kubernetes.default")).To(Equal("10.96.0.1\n"))
		By("by the cluster's in the host's network, where the host's name holds")
		Expect(file("guest")).To(ContainElements(cluster, "nameserver 10.96.0.10"))
		Expect(run("guest", "nslookup", "kubernetes.default")).To(Equal("10.96.0.1\n"))
		Expect(run("guest", "hostname")).NotTo(ContainSubstring("not-mine"))
		By("by a name of its own below a service's")
		var address string
		for _, pod := range pods {
			if pod.Name == "child" {
				address = pod.Status.PodIP
			}
		}
		Expect(run("child", "hostname")).To(Equal("querier\n"))
		Expect(strings.Fields(run("child", "cat", "/etc/hosts"))).To(ContainElements(address, "querier.family."+of, "querier", "192.0.2.7", "alias.example"))
		for _, name := range []string{"querier.family." + of, "querier.family"} {
			Eventually(func() (string, error) {
				return c.Dray(ctx, "exec", "-n", namespace, "wide", "--", "nslookup", name)
			}).Should(Equal(address+"\n"), name)
		}
	}, SpecTimeout(10*time.Minute))
})
