package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/cluster"
)

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	// Containers on two busy cores take their time: what fails here must be broken, not slow.
	SetDefaultEventuallyTimeout(3 * time.Minute)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	RunSpecs(t, "e2e")
}

// c is the cluster that specs share when they do not break it: a control plane and one node.
var c *cluster.Cluster

var _ = BeforeSuite(func(ctx SpecContext) {
	var err error
	c, err = cluster.Start(ctx, cluster.Options{})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		node := c.Nodes[0]
		Expect(c.Close()).To(Succeed())
		Expect(node.Leftovers()).To(BeEmpty(), "nothing may stay on the machine")
	})
}, NodeTimeout(10*time.Minute))

var _ = ReportAfterEach(func(report SpecReport) {
	if report.Failed() && c != nil {
		fmt.Fprintln(GinkgoWriter, c.Tails(60))
	}
})

// newNamespace makes a namespace that goes with the spec.
func newNamespace(ctx context.Context, on *cluster.Cluster) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{}
	namespace.GenerateName = "e2e-"
	Expect(on.Client.Create(ctx, namespace)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		if CurrentSpecReport().Failed() {
			describe(ctx, on, namespace.Name)
		}
		Expect(client.IgnoreNotFound(on.Client.Delete(ctx, namespace))).To(Succeed())
		Eventually(func() error {
			return on.Client.Get(ctx, client.ObjectKeyFromObject(namespace), namespace)
		}).Should(MatchError(ContainSubstring("not found")), "deleting namespace %s must end", namespace.Name)
	}, NodeTimeout(10*time.Minute))
	return namespace.Name
}

// describe prints what a failed spec left in its namespace.
func describe(ctx context.Context, on *cluster.Cluster, namespace string) {
	for _, args := range [][]string{
		{"get", "dpo,ddeploy,drs,dsvc,deps", "-o", "wide", "-n", namespace},
		{"get", "events", "-n", namespace, "--sort-by=.metadata.creationTimestamp"},
		{"get", "dpo", "-n", namespace, "-o", "jsonpath={range .items[*]}{.metadata.name}{\" \"}{.status}{\"\\n\"}{end}"},
	} {
		out, err := on.Kubectl(ctx, args...)
		fmt.Fprintln(GinkgoWriter, out, err)
	}
}

// manifest reads a manifest of test/manifests, as its author wrote it, with an emptyDir in place of a claim.
func manifest(name string) string {
	GinkgoHelper()
	data, err := os.ReadFile(filepath.Join("../manifests", name))
	Expect(err).NotTo(HaveOccurred())
	return strings.ReplaceAll(string(data), "persistentVolumeClaim:\n            claimName: myapp-data", "emptyDir: {}")
}

// file writes text to a file that goes with the spec.
func file(text string) string {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), "manifest.yaml")
	Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
	return path
}

// convert turns ordinary manifests into Drayage's with the command line.
func convert(ctx context.Context, on *cluster.Cluster, text string) string {
	GinkgoHelper()
	out, err := on.Dray(ctx, "convert", "-f", file(text))
	Expect(err).NotTo(HaveOccurred())
	return out
}

// apply applies text with kubectl.
func apply(ctx context.Context, on *cluster.Cluster, namespace, text string) {
	GinkgoHelper()
	_, err := on.Kubectl(ctx, "apply", "-n", namespace, "-f", file(text))
	Expect(err).NotTo(HaveOccurred())
}

// pods lists the pods that carry labels and are not on their way out.
func pods(ctx context.Context, on *cluster.Cluster, namespace string, selector labels.Set) []dcorev1.Pod {
	GinkgoHelper()
	list := &dcorev1.PodList{}
	Expect(on.Client.List(ctx, list, client.InNamespace(namespace), client.MatchingLabels(selector))).To(Succeed())
	var live []dcorev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			live = append(live, pod)
		}
	}
	return live
}

// ready says whether a pod's condition Ready is True.
func ready(pod *dcorev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// readyPods waits for exactly n live pods with the labels, all Ready, and returns them.
func readyPods(ctx context.Context, on *cluster.Cluster, namespace string, selector labels.Set, n int) []dcorev1.Pod {
	GinkgoHelper()
	var live []dcorev1.Pod
	Eventually(func(g Gomega) {
		live = pods(ctx, on, namespace, selector)
		g.Expect(live).To(HaveLen(n))
		for i := range live {
			g.Expect(ready(&live[i])).To(BeTrue(), "%s is %s: %+v", live[i].Name, live[i].Status.Summary.Status, live[i].Status.ContainerStatuses)
		}
	}).Should(Succeed())
	return live
}

// available waits until every replica of a deployment is available and up to date.
func available(ctx context.Context, on *cluster.Cluster, namespace, name string) *dappsv1.Deployment {
	GinkgoHelper()
	deployment := &dappsv1.Deployment{}
	Eventually(func(g Gomega) {
		g.Expect(on.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, deployment)).To(Succeed())
		g.Expect(deployment.Status.ObservedGeneration).To(Equal(deployment.Generation))
		g.Expect(deployment.Status.UpdatedReplicas).To(Equal(*deployment.Spec.Replicas))
		g.Expect(deployment.Status.AvailableReplicas).To(Equal(*deployment.Spec.Replicas))
		g.Expect(deployment.Status.Replicas).To(Equal(*deployment.Spec.Replicas))
	}).Should(Succeed(), "deployment %s must become available", name)
	return deployment
}

// get fetches a URL from a node, as soon as somebody answers: a container without a probe is Ready before it listens,
// and an endpoint is in the API before it is in the kernel.
func get(node *cluster.Node, url string) (body string) {
	GinkgoHelper()
	Eventually(func() (err error) {
		body, err = tryGet(node, url)
		return err
	}).Should(Succeed())
	return body
}

// getNow fetches a URL from a node where somebody has to answer all the time.
func getNow(node *cluster.Node, url string) string {
	GinkgoHelper()
	body, err := tryGet(node, url)
	Expect(err).NotTo(HaveOccurred())
	return body
}

func tryGet(node *cluster.Node, url string) (string, error) {
	response, err := node.HTTPClient().Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", url, response.Status, body)
	}
	return string(body), err
}

// execIn runs a command in a container through the command line.
func execIn(ctx context.Context, on *cluster.Cluster, namespace, pod, container string, command ...string) string {
	GinkgoHelper()
	out, err := on.Dray(ctx, append([]string{"exec", "-n", namespace, pod, "-c", container, "--"}, command...)...)
	Expect(err).NotTo(HaveOccurred())
	return out
}

// replaceOnce replaces the first occurrence of a text that must be there.
func replaceOnce(text, old, by string) string {
	GinkgoHelper()
	Expect(text).To(ContainSubstring(old))
	return strings.Replace(text, old, by, 1)
}
