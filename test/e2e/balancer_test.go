package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/cluster"
	"drayage.dev/test/load"
)

const (
	// balanced are the workers of each kind behind the balancer, leastBalanced the requests that they must come to.
	balanced, leastBalanced = 12, 3000
	// checkEvery is how often a balancer looks, checkFailures how many bad answers in a row take a node out: so it
	// notices within the time that the application leaves it (its preStop hook).
	checkEvery, checkFailures = 250 * time.Millisecond, 2
	// connectWithin lets a first packet be repeated once, after a second: more often is lost here.
	connectWithin = 2500 * time.Millisecond
)

// What a cluster's administrator does for a balancer that takes its time: the application goes on serving for
// that long before it is told to end.
const behindBalancer = `
apiVersion: apps.drayage.dev/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 2, maxUnavailable: 2}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 30
      containers:
      - name: web
        image: my-app:1.0
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 5}}}
---
apiVersion: core.drayage.dev/v1
kind: Service
metadata: {name: edge}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
`

var _ = Describe("requests of a balancer to nodes with endpoints of their own", func() {
	It("are never lost by updates and scaling, as long as it follows the health check port", func(ctx SpecContext) {
		many, err := cluster.Start(ctx, cluster.Options{Nodes: 3, Routed: 1})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			if CurrentSpecReport().Failed() {
				GinkgoWriter.Println(many.Tails(40))
			}
			Expect(many.Close()).To(Succeed())
		})
		namespace := newNamespace(ctx, many)
		apply(ctx, many, namespace, behindBalancer)
		available(ctx, many, namespace, "web")
		edge := &dcorev1.Service{}
		Eventually(func(g Gomega) {
			g.Expect(many.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "edge"}, edge)).To(Succeed())
			g.Expect(edge.Status.LoadBalancer.Ingress).To(HaveLen(3))
		}).Should(Succeed())
		outside, err := many.NewOutside()
		Expect(err).NotTo(HaveOccurred())
		b := balance(outside, many.Nodes, edge)
		Eventually(b.serving).ShouldNot(BeEmpty())

		chronicle(ctx, many, namespace)
		l := load.Start(b.DialContext, "http://edge/", balanced)
		for i := range 3 {
			l.Now(fmt.Sprintf("rolling update %d", i+1))
			_, err := many.Dray(ctx, "rollout", "restart", "ddeploy/web", "-n", namespace)
			Expect(err).NotTo(HaveOccurred())
			available(ctx, many, namespace, "web")
		}
		for _, n := range []int{2, 6} {
			l.Now(fmt.Sprintf("scaling to %d", n))
			_, err := many.Kubectl(ctx, "scale", "ddeploy/web", fmt.Sprintf("--replicas=%d", n), "-n", namespace)
			Expect(err).NotTo(HaveOccurred())
			available(ctx, many, namespace, "web")
			if n < len(many.Nodes) {
				Eventually(b.serving).Should(HaveLen(n), "a node has no endpoint")
			}
		}
		l.Now("the last ones end")
		Eventually(func() int { return len(allOf(ctx, many, namespace, map[string]string{"app": "web"})) }).Should(Equal(6))
		result := l.End()
		AddReportEntry(fmt.Sprintf("%d requests, %.0f a second, %d lost; nodes were taken out %d times", result.Sent, result.Rate, result.Lost, b.outs()))
		Expect(result.Failures()).To(BeEmpty(), "of %d requests", result.Sent)
		Expect(result.Sent).To(BeNumerically(">=", leastBalanced), "requests")
	}, SpecTimeout(10*time.Minute))
})

// balancer connects to the nodes that say at the health check port that they have endpoints, in turns, at the node port
// and at the port of the balancer's address.
type balancer struct {
	outside *cluster.Outside
	ports   []int32
	check   int32

	mu sync.Mutex
	// in are the addresses of the nodes that connections go to, next counts connections, out how often a node was taken out.
	in        map[string]bool
	next, out int
}

// balance begins to look at the nodes. It ends with the spec.
func balance(outside *cluster.Outside, nodes []*cluster.Node, service *dcorev1.Service) *balancer {
	GinkgoHelper()
	port := service.Spec.Ports[0]
	Expect([]int32{port.NodePort, service.Spec.HealthCheckNodePort}).NotTo(ContainElement(BeZero()))
	b := &balancer{outside: outside, ports: []int32{port.NodePort, port.Port}, check: service.Spec.HealthCheckNodePort, in: map[string]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for _, node := range nodes {
		done.Go(func() { b.follow(ctx, node.Address.String()) })
	}
	DeferCleanup(func() {
		stop()
		done.Wait()
	})
	return b
}

func (b *balancer) follow(ctx context.Context, address string) {
	// A node that is slow to answer, as all are on a busy machine, is not one that has nothing.
	asking := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: b.outside.DialContext, DisableKeepAlives: true}}
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for bad := 0; ; {
		if healthy(ctx, asking, at(address, b.check)) {
			bad = 0
		} else {
			bad++
		}
		b.mu.Lock()
		switch is := b.in[address]; {
		case bad == 0 && !is:
			b.in[address] = true
		case bad >= checkFailures && is:
			delete(b.in, address)
			b.out++
		}
		b.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func healthy(ctx context.Context, asking *http.Client, address string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return false
	}
	response, err := asking.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// serving are the addresses of the nodes that connections go to, sorted.
func (b *balancer) serving() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.in))
}

func (b *balancer) outs() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out
}

// DialContext connects to the next node, whatever the address.
func (b *balancer) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	nodes := b.serving()
	if len(nodes) == 0 {
		return nil, errors.New("the balancer has no node")
	}
	b.mu.Lock()
	b.next++
	next := b.next
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	return b.outside.DialContext(ctx, network, at(nodes[next%len(nodes)], b.ports[next/len(nodes)%len(b.ports)]))
}
