package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/cluster"
)

// documented returns the metrics that docs/operations.md promises, by process.
func documented() map[string][]string {
	GinkgoHelper()
	file, err := os.Open("../../docs/operations.md")
	Expect(err).NotTo(HaveOccurred())
	defer file.Close()
	promised := map[string][]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		cells := strings.Split(lines.Text(), "|")
		if len(cells) != 5 || !strings.HasPrefix(cells[1], " `") || !strings.Contains(cells[1], "_") {
			continue
		}
		for process := range strings.SplitSeq(cells[2], ",") {
			process = strings.TrimSpace(process)
			promised[process] = append(promised[process], strings.Trim(cells[1], " `"))
		}
	}
	return promised
}

// families returns the names of the metric families of a scrape.
func families(client *http.Client, url string) map[string]bool {
	response, err := client.Get(url)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	found := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if name, declared := strings.CutPrefix(line, "# TYPE "); declared {
			found[strings.Fields(name)[0]] = true
		}
	}
	return found
}

var _ = Describe("operations", func() {
	It("find every metric of the documentation in a working cluster", func(ctx SpecContext) {
		namespace := newNamespace(ctx, c)
		apply(ctx, c, namespace, web)
		available(ctx, c, namespace, "web")
		node := c.Nodes[0]
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return node.Namespace.DialContext(ctx, "udp", "10.96.0.10:53")
		}}
		Eventually(func() error {
			_, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local")
			return err
		}).Should(Succeed())
		_, err := resolver.LookupHost(ctx, "example.invalid")
		Expect(err).To(HaveOccurred(), "nobody outside can be asked")
		api, err := rest.HTTPClientFor(c.Config)
		Expect(err).NotTo(HaveOccurred())
		server := c.ServerHTTPClient()
		for process, scrape := range map[string]func() map[string]bool{
			"server":    func() map[string]bool { return families(api, c.Config.Host+"/metrics") },
			"manager":   func() map[string]bool { return families(server, "http://127.0.0.1:8080/metrics") },
			"scheduler": func() map[string]bool { return families(server, "http://127.0.0.1:10251/metrics") },
			"agent":     func() map[string]bool { return families(node.HTTPClient(), "http://127.0.0.1:10351/metrics") },
			"dns":       func() map[string]bool { return families(node.HTTPClient(), "http://127.0.0.1:10353/metrics") },
		} {
			promised := documented()[process]
			Expect(promised).NotTo(BeEmpty(), process)
			Eventually(func() []string {
				found := scrape()
				var missing []string
				for _, name := range promised {
					if !found[name] {
						missing = append(missing, name)
					}
				}
				return missing
			}).Should(BeEmpty(), "metrics of %s", process)
		}
		for _, address := range []string{"127.0.0.1:10351", "127.0.0.1:10353"} {
			for _, path := range []string{"/healthz", "/readyz"} {
				response, err := node.HTTPClient().Get("http://" + address + path)
				Expect(err).NotTo(HaveOccurred())
				response.Body.Close()
				Expect(response.StatusCode).To(Equal(http.StatusOK), address+path)
			}
		}
	}, SpecTimeout(10*time.Minute))

	// With DRAYAGE_OUTAGE, such as 5m, the outage is that long and the durations are those that ship. Without, it is as
	// much longer than the shortened ones.
	It("go on while the API server is away, and nothing is evicted when it is back", func(ctx SpecContext) {
		outage, grace := 45*time.Second, 25*time.Second
		var shortened []string
		if text := os.Getenv("DRAYAGE_OUTAGE"); text != "" {
			var err error
			outage, err = time.ParseDuration(text)
			Expect(err).NotTo(HaveOccurred())
			grace = 40 * time.Second
		} else {
			shortened = []string{"--node-monitor-grace-period=" + grace.String()}
		}
		two, err := cluster.Start(ctx, cluster.Options{Nodes: 2, ManagerArgs: shortened})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			if CurrentSpecReport().Failed() {
				GinkgoWriter.Println(two.Tails(60))
			}
			Expect(two.Close()).To(Succeed())
		})
		namespace := newNamespace(ctx, two)
		application := web
		if shortened != nil {
			application = impatient
		}
		apply(ctx, two, namespace, application)
		available(ctx, two, namespace, "web")
		before := map[string]string{}
		var urls []string
		for _, pod := range pods(ctx, two, namespace, labels.Set{"app": "web"}) {
			Expect(ready(&pod)).To(BeTrue())
			before[string(pod.UID)] = pod.Status.ContainerStatuses[0].ContainerID
			urls = append(urls, "http://"+pod.Status.PodIP+":8080/ready")
		}

		Expect(two.Server.Kill()).To(Succeed())
		asked, lost := 0, 0
		for end := time.Now().Add(outage); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			for _, node := range two.Nodes {
				for _, url := range urls {
					asked++
					if response, err := node.HTTPClient().Get(url); err != nil {
						lost++
					} else {
						response.Body.Close()
					}
				}
			}
		}
		AddReportEntry("requests during the outage", fmt.Sprintf("%d, lost %d", asked, lost))
		Expect(lost).To(BeZero())

		Expect(two.Server.Start()).To(Succeed())
		Eventually(func() error {
			return two.Client.Get(ctx, client.ObjectKey{Name: two.Nodes[0].Name}, &dcorev1.Node{})
		}).Should(Succeed())
		Consistently(func(g Gomega) {
			list := &dcorev1.PodList{}
			g.Expect(two.Client.List(ctx, list, client.InNamespace(namespace))).To(Succeed())
			after := map[string]string{}
			for i := range list.Items {
				g.Expect(list.Items[i].DeletionTimestamp).To(BeNil())
				g.Expect(ready(&list.Items[i])).To(BeTrue())
				after[string(list.Items[i].UID)] = list.Items[i].Status.ContainerStatuses[0].ContainerID
			}
			g.Expect(after).To(Equal(before))
			nodes := &dcorev1.NodeList{}
			g.Expect(two.Client.List(ctx, nodes)).To(Succeed())
			for _, node := range nodes.Items {
				g.Expect(node.Spec.Taints).To(BeEmpty())
				g.Expect(node.Status.Conditions).To(ContainElement(And(HaveField("Type", corev1.NodeReady), HaveField("Status", corev1.ConditionTrue))))
			}
		}, grace*3/2, 500*time.Millisecond).WithContext(ctx).Should(Succeed())
		events := &corev1.EventList{}
		Expect(two.Client.List(ctx, events)).To(Succeed())
		for _, event := range events.Items {
			Expect(event.Reason).NotTo(BeElementOf("NodeNotReady", "TaintManagerEviction"), event.Message)
		}
	}, SpecTimeout(12*time.Minute))
})
