package apiserver_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"

	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("A pod's log", func() {
	var namespace string
	var node *scriptedNode
	var pod *dcorev1.Pod

	BeforeEach(func(ctx context.Context) {
		namespace = newNamespace(ctx)
		node = startNode(ctx, "node-of-"+namespace)
		pod = newPod(namespace, "web", "")
		node.run(ctx, pod)
		node.write("web-app", "one", "two", "three")
	})

	DescribeTable("is read as its options say",
		func(ctx context.Context, query, want string) {
			status, body := readLog(ctx, server.Config, namespace, "web", query)
			Expect(status).To(Equal(http.StatusOK), body)
			Expect(body).To(Equal(want))
		},
		Entry("whole", "", "one\ntwo\nthree\n"),
		Entry("by container", "container=app", "one\ntwo\nthree\n"),
		Entry("its tail", "tailLines=2", "two\nthree\n"),
		Entry("no line", "tailLines=0", ""),
		Entry("limited", "limitBytes=5", "one\nt"),
		Entry("with timestamps", "tailLines=1&timestamps=true", "2026-01-02T03:04:05.000000006Z three\n"),
		Entry("since later", "sinceTime=2026-01-02T03:04:06Z", ""),
		Entry("since earlier", "sinceTime=2026-01-02T03:04:04Z", "one\ntwo\nthree\n"),
	)

	It("is followed until the container ends", func(ctx context.Context) {
		response := openLog(ctx, server.Config, namespace, "web", "follow=true&tailLines=1")
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		Expect(lines.Scan()).To(BeTrue())
		Expect(lines.Text()).To(Equal("three"))
		node.write("web-app", "four")
		Expect(lines.Scan()).To(BeTrue())
		Expect(lines.Text()).To(Equal("four"))
		node.stop("web-app")
		node.write("web-app", "five")
		Expect(lines.Scan()).To(BeTrue())
		Expect(lines.Text()).To(Equal("five"))
		Expect(lines.Scan()).To(BeFalse())
	})

	It("of the container before is read with previous", func(ctx context.Context) {
		status, body := readLog(ctx, server.Config, namespace, "web", "previous=true")
		Expect(status).To(Equal(http.StatusBadRequest))
		Expect(body).To(ContainSubstring(`previous terminated container \"app\" in pod \"web\" not found`))

		node.write("web-app-0", "last words")
		node.report(pod, corev1.ContainerStatus{
			Name: "app", ContainerID: "containerd://web-app-0",
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ContainerID: "containerd://web-app-0"}},
		})
		for _, query := range []string{"previous=true", ""} {
			_, body = readLog(ctx, server.Config, namespace, "web", query)
			Expect(body).To(Equal("last words\n"), query)
		}
	})

	It("of a container that waits says for what", func(ctx context.Context) {
		node.report(pod, corev1.ContainerStatus{
			Name: "app", ContainerID: "containerd://",
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}},
		})
		status, body := readLog(ctx, server.Config, namespace, "web", "")
		Expect(status).To(Equal(http.StatusBadRequest))
		Expect(body).To(ContainSubstring(`container \"app\" in pod \"web\" is waiting to start: ContainerCreating`))
	})

	It("asks for a container where there are several, and refuses one that is not there", func(ctx context.Context) {
		two := newPod(namespace, "two", "")
		two.Spec.Containers = append(two.Spec.Containers, corev1.Container{Name: "side", Image: "side:1"})
		node.run(ctx, two)
		_, body := readLog(ctx, server.Config, namespace, "two", "")
		Expect(body).To(ContainSubstring("a container name must be specified for pod two, choose one of: [app side]"))
		_, body = readLog(ctx, server.Config, namespace, "two", "container=none")
		Expect(body).To(ContainSubstring("container none is not valid for pod two"))
		status, body := readLog(ctx, server.Config, namespace, "nobody", "")
		Expect(status).To(Equal(http.StatusNotFound))
		Expect(body).To(ContainSubstring(`pods.core.drayage.dev \"nobody\" not found`))
		status, body = readLog(ctx, server.Config, namespace, "web", "tailLines=-1")
		Expect(status).To(Equal(http.StatusUnprocessableEntity), body)
	})

	It("names node and pod when the node is away", func(ctx context.Context) {
		registerNode(ctx, "away-"+namespace, "127.0.0.1", 1)
		for _, name := range []string{"away-" + namespace, "never-" + namespace} {
			lost := newPod(namespace, name, name)
			Expect(admin.Create(ctx, lost)).To(Succeed())
			status, body := readLog(ctx, server.Config, namespace, name, "")
			Expect(status).To(Equal(http.StatusServiceUnavailable), body)
			Expect(body).To(And(ContainSubstring(`node \"`+name+`\"`), ContainSubstring("pod "+namespace+"/"+name)))
		}
	})

	It("is for whom RBAC lets get pods/log", func(ctx context.Context) {
		reader := as(server, "reader-of-"+namespace)
		status, _ := readLog(ctx, reader, namespace, "web", "")
		Expect(status).To(Equal(http.StatusForbidden))
		allow(ctx, admin, "spec:logs-"+namespace, rbacv1.Subject{Kind: "User", Name: "reader-of-" + namespace, APIGroup: rbacv1.GroupName}, rule("get", "pods/log"))
		Eventually(func() int {
			status, _ := readLog(ctx, reader, namespace, "web", "")
			return status
		}).Should(Equal(http.StatusOK))
	})

	It("is for no other certificate of the cluster, straight from the node", func(ctx context.Context) {
		thief := rest.CopyConfig(as(server, "drayage:node:thief", dcorev1.NodesGroup))
		var registered dcorev1.Node
		Expect(admin.Get(ctx, keyOf("", node.name), &registered)).To(Succeed())
		thief.Host = nodeURL(&registered)
		response := do(ctx, thief, http.MethodGet, "/containerLogs/"+namespace+"/web/app", nil)
		defer response.Body.Close()
		Expect(response.StatusCode).To(Equal(http.StatusForbidden))

		anonymous := rest.AnonymousClientConfig(thief)
		httpClient, err := rest.HTTPClientFor(anonymous)
		Expect(err).NotTo(HaveOccurred())
		_, err = httpClient.Get(thief.Host + "/healthz")
		Expect(err).To(MatchError(ContainSubstring("certificate required")))
	})
})

// openLog starts reading the log of a pod.
func openLog(ctx context.Context, config *rest.Config, namespace, pod, query string) *http.Response {
	GinkgoHelper()
	return do(ctx, config, http.MethodGet, podPath(namespace, pod, "log")+"?"+query, nil)
}

// readLog reads the log of a pod, or the refusal, to its end.
func readLog(ctx context.Context, config *rest.Config, namespace, pod, query string) (int, string) {
	GinkgoHelper()
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	response := openLog(limited, config, namespace, pod, query)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response.StatusCode, string(body)
}
