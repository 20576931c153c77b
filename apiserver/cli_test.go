package apiserver_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	dappsv1 "drayage.dev/apis/apps/v1"
	"drayage.dev/cmd/dray/streams"
)

var _ = Describe("The command line", Ordered, func() {
	var namespace string
	var node *scriptedNode

	BeforeAll(func(ctx context.Context) {
		namespace = newNamespace(ctx)
		node = startNode(ctx, "node-of-"+namespace)
		pod := newPod(namespace, "web", "")
		pod.Labels = map[string]string{"app": "web"}
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "side", Image: "side:1"})
		node.run(ctx, pod)
		node.write("web-app", "one", "two", "three")
		node.write("web-side", "aside")
		// The administrator's own names an address that specs do not listen on.
		file, err := clientcmd.LoadFromFile(server.Info.Kubeconfigs["admin"])
		Expect(err).NotTo(HaveOccurred())
		for _, cluster := range file.Clusters {
			cluster.Server = server.Config.Host
		}
		kubeconfig = filepath.Join(GinkgoT().TempDir(), "kubeconfig")
		Expect(clientcmd.WriteToFile(*file, kubeconfig)).To(Succeed())
		Expect(admin.Create(ctx, &dappsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "front"},
			Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: pod.Labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec},
			},
		})).To(Succeed())
	})

	run := func(stdin string, newCommand func(genericiooptions.IOStreams) *cobra.Command, args ...string) (string, string, int) {
		GinkgoHelper()
		return dray(namespace, strings.NewReader(stdin), newCommand, args...)
	}

	It("prints logs", func() {
		for _, arg := range []string{"web", "pod/web", "po/web", "dpo/web", "deployment/front", "ddeploy/front", "deployments.apps.drayage.dev/front"} {
			out, errs, code := run("", streams.NewLogs, arg, "--tail=2", "-c", "app")
			Expect(code).To(BeZero(), errs)
			Expect(out).To(Equal("two\nthree\n"), arg)
		}
		out, errs, code := run("", streams.NewLogs, "-l", "app=web", "--prefix", "--all-containers")
		Expect(code).To(BeZero(), errs)
		Expect(out).To(And(ContainSubstring("[pod/web/app] three\n"), ContainSubstring("[pod/web/side] aside\n")))
		_, errs, code = run("", streams.NewLogs, "nobody")
		Expect(code).To(Equal(1))
		Expect(errs).To(ContainSubstring(`"nobody" not found`))
		_, errs, _ = run("", streams.NewLogs, "web", "--previous")
		Expect(errs).To(ContainSubstring(`previous terminated container "app" in pod "web" not found`))
	})

	It("runs commands and exits with their codes", func() {
		out, errs, code := run("", streams.NewExec, "web", "--", "whoami")
		Expect(code).To(BeZero(), errs)
		Expect(out).To(Equal("web-app"))
		out, errs, code = run("", streams.NewExec, "deploy/front", "-c", "side", "--", "whoami")
		Expect(code).To(BeZero(), errs)
		Expect(out).To(Equal("web-side"))
		out, errs, code = run("typed", streams.NewExec, "-i", "web", "--", "cat")
		Expect(code).To(BeZero(), errs)
		Expect(out).To(Equal("typed"))
		_, errs, code = run("", streams.NewExec, "web", "--", "fail")
		Expect(code).To(Equal(7))
		Expect(errs).To(ContainSubstring("failing as asked"))
		_, _, code = run("", streams.NewExec, "web", "-c", "none", "--", "whoami")
		Expect(code).To(Equal(1))
	})

	It("attaches", func() {
		out, errs, code := run("", streams.NewAttach, "web", "-c", "side")
		Expect(code).To(BeZero(), errs)
		Expect(out).To(ContainSubstring("attached to web-side"))
	})

	It("forwards ports", func(ctx context.Context) {
		pod := newPod(namespace, "forwarded", "")
		pod.Spec.NodeName = node.name
		Expect(admin.Create(ctx, pod)).To(Succeed())
		node.report(pod)
		pod.Status.Phase = corev1.PodRunning
		Expect(admin.Status().Update(ctx, pod)).To(Succeed())

		// The command has no end but Ctrl-C and a lost pod; the latter is fatal, and ends its goroutine.
		cmdutil.BehaviorOnFatal(func(string, int) { runtime.Goexit() })
		DeferCleanup(cmdutil.DefaultBehaviorOnFatal)
		out := &lockedBuffer{}
		command := streams.NewPortForward(genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: out, ErrOut: out})
		command.SetArgs([]string{"--kubeconfig", kubeconfig, "-n", namespace, "pod/forwarded", ":80"})
		done := make(chan struct{})
		go func() { defer close(done); _ = command.Execute() }()
		DeferCleanup(func() { node.shutdown(); Eventually(done).Should(BeClosed()) })
		port := regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+) -> 80`)
		Eventually(out.String).Should(MatchRegexp(port.String()))

		conn, err := net.Dial("tcp", "127.0.0.1:"+port.FindStringSubmatch(out.String())[1])
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		Expect(err).NotTo(HaveOccurred())
		heard, err := bufio.NewReader(conn).ReadString('-')
		Expect(err).NotTo(HaveOccurred())
		Expect(heard).To(ContainSubstring("sandbox"))
	})
})

// kubeconfig is the file that commands are given.
var kubeconfig string

// lockedBuffer is written by a command and read by a spec at once.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// dray runs a command as an administrator and returns what it printed and the code that it exits with.
func dray(namespace string, in io.Reader, newCommand func(genericiooptions.IOStreams) *cobra.Command, args ...string) (string, string, int) {
	GinkgoHelper()
	var out, errs bytes.Buffer
	type exit struct{ code int }
	// The commands end the process when they fail; here they end their goroutine's stack.
	cmdutil.BehaviorOnFatal(func(message string, code int) {
		fmt.Fprintln(&errs, message)
		panic(exit{code})
	})
	defer cmdutil.DefaultBehaviorOnFatal()
	code := 0
	func() {
		defer func() {
			switch ended := recover().(type) {
			case nil:
			case exit:
				code = ended.code
			default:
				panic(ended)
			}
		}()
		command := newCommand(genericiooptions.IOStreams{In: in, Out: &out, ErrOut: &errs})
		command.SetArgs(append([]string{"--kubeconfig", kubeconfig, "--cache-dir", filepath.Dir(kubeconfig), "-n", namespace}, args...))
		if err := command.Execute(); err != nil {
			code = 1
			fmt.Fprintln(&errs, err)
		}
	}()
	return out.String(), errs.String(), code
}
