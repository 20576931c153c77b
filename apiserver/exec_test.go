package apiserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("Streams into a pod", func() {
	var namespace string
	var node *scriptedNode

	BeforeEach(func(ctx context.Context) {
		namespace = newNamespace(ctx)
		node = startNode(ctx, "node-of-"+namespace)
		node.run(ctx, newPod(namespace, "web", ""))
	})

	for _, protocol := range protocols {
		name, newExecutor := protocol.name, protocol.newExecutor
		Describe("by "+name, func() {
			run := func(ctx context.Context, config *rest.Config, pod, query string, options remotecommand.StreamOptions) error {
				GinkgoHelper()
				target, err := url.Parse(config.Host + podPath(namespace, pod, "exec") + "?" + query)
				Expect(err).NotTo(HaveOccurred())
				executor, err := newExecutor(config, target)
				Expect(err).NotTo(HaveOccurred())
				return executor.StreamWithContext(ctx, options)
			}

			It("carries output, input, errors and exit codes", func(ctx context.Context) {
				var out, errs bytes.Buffer
				Expect(run(ctx, server.Config, "web", "command=whoami&stdout=true", remotecommand.StreamOptions{Stdout: &out})).To(Succeed())
				Expect(out.String()).To(Equal("web-app"))

				out.Reset()
				long := strings.Repeat("a line of input\n", 10000)
				Expect(run(ctx, server.Config, "web", "command=cat&stdin=true&stdout=true&container=app",
					remotecommand.StreamOptions{Stdin: strings.NewReader(long), Stdout: &out})).To(Succeed())
				Expect(out.String() == long).To(BeTrue(), "the input came back changed")

				err := run(ctx, server.Config, "web", "command=fail&stdout=true&stderr=true", remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
				var exit utilexec.CodeExitError
				Expect(errors.As(err, &exit)).To(BeTrue(), "%v", err)
				Expect(exit.Code).To(Equal(7))
				Expect(errs.String()).To(Equal("failing as asked"))
			})

			It("tells a terminal's size", func(ctx context.Context) {
				var out bytes.Buffer
				Expect(run(ctx, server.Config, "web", "command=size&stdin=true&stdout=true&tty=true", remotecommand.StreamOptions{
					Stdin: strings.NewReader(""), Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{remotecommand.TerminalSize{Width: 80, Height: 24}},
				})).To(Succeed())
				Expect(out.String()).To(Equal("80x24"))
			})

			It("is for whom RBAC lets create pods/exec", func(ctx context.Context) {
				user := "shell-" + name + "-" + namespace
				config, subject := as(server, user), rbacv1.Subject{Kind: "User", Name: user, APIGroup: rbacv1.GroupName}
				try := func() error {
					return run(ctx, config, "web", "command=whoami&stdout=true", remotecommand.StreamOptions{Stdout: &bytes.Buffer{}})
				}
				Expect(try()).To(MatchError(ContainSubstring("cannot")))
				// A WebSocket is opened by a GET; the right to read must not be enough for a shell.
				allow(ctx, admin, "spec:get-"+user, subject, rule("get", "pods/exec"), rule("get", "pods/log"))
				Eventually(func() int {
					status, _ := readLog(ctx, config, namespace, "web", "")
					return status
				}).ShouldNot(Equal(http.StatusForbidden))
				Expect(try()).NotTo(Succeed())
				allow(ctx, admin, "spec:create-"+user, subject, rule("create", "pods/exec"))
				Eventually(try).Should(Succeed())
			})

			It("says what is wrong", func(ctx context.Context) {
				registerNode(ctx, "away-"+namespace, "127.0.0.1", 1)
				Expect(admin.Create(ctx, newPod(namespace, "lost", "away-"+namespace))).To(Succeed())
				Expect(run(ctx, server.Config, "lost", "command=whoami&stdout=true", remotecommand.StreamOptions{Stdout: &bytes.Buffer{}})).
					To(MatchError(And(ContainSubstring("away-"+namespace), ContainSubstring(namespace+"/lost"))))
				Expect(admin.Create(ctx, newPod(namespace, "unbound", ""))).To(Succeed())
				Expect(run(ctx, server.Config, "unbound", "command=whoami&stdout=true", remotecommand.StreamOptions{Stdout: &bytes.Buffer{}})).
					To(MatchError(ContainSubstring("pod unbound does not have a host assigned")))
			})
		})
	}

	It("attaches", func(ctx context.Context) {
		target, err := url.Parse(server.Config.Host + podPath(namespace, "web", "attach") + "?stdout=true")
		Expect(err).NotTo(HaveOccurred())
		executor, err := remotecommand.NewSPDYExecutor(server.Config, http.MethodPost, target)
		Expect(err).NotTo(HaveOccurred())
		var out bytes.Buffer
		Expect(executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})).To(Succeed())
		Expect(out.String()).To(Equal("attached to web-app"))
	})

	It("forwards ports", func(ctx context.Context) {
		target, err := url.Parse(server.Config.Host + podPath(namespace, "web", "portforward"))
		Expect(err).NotTo(HaveOccurred())
		transport, upgrader, err := spdy.RoundTripperFor(server.Config)
		Expect(err).NotTo(HaveOccurred())
		dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
		stop, ready := make(chan struct{}), make(chan struct{})
		forwarder, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, GinkgoWriter, GinkgoWriter)
		Expect(err).NotTo(HaveOccurred())
		done := make(chan error, 1)
		go func() { done <- forwarder.ForwardPorts() }()
		DeferCleanup(func() { close(stop); <-done })
		Eventually(ready).Should(BeClosed())
		ports, err := forwarder.GetPorts()
		Expect(err).NotTo(HaveOccurred())

		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		Expect(err).NotTo(HaveOccurred())
		buffer := make([]byte, 256)
		n, err := conn.Read(buffer)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(buffer[:n])).To(And(ContainSubstring("sandbox-of-"), ContainSubstring("port 8080 heard hello")))
	})
})

// protocols are the two ways in which clients open a stream.
var protocols = []struct {
	name        string
	newExecutor func(*rest.Config, *url.URL) (remotecommand.Executor, error)
}{
	{"SPDY", func(config *rest.Config, target *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	}},
	{"WebSocket", func(config *rest.Config, target *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	}},
}

// oneSize is a terminal that never changes.
type oneSize struct{ size remotecommand.TerminalSize }

func (o *oneSize) Next() *remotecommand.TerminalSize {
	size := o.size
	if size.Width == 0 {
		return nil
	}
	o.size = remotecommand.TerminalSize{}
	return &size
}

func podPath(namespace, pod, subresource string) string {
	return "/apis/subresources.drayage.dev/v1alpha1/namespaces/" + namespace + "/pods/" + pod + "/" + subresource
}

func keyOf(namespace, name string) client.ObjectKey {
	return client.ObjectKey{Namespace: namespace, Name: name}
}

// nodeURL is where a node's agent listens.
func nodeURL(node *dcorev1.Node) string {
	return fmt.Sprintf("https://%s:%d", node.Status.Addresses[0].Address, node.Status.DaemonEndpoints.KubeletEndpoint.Port)
}
