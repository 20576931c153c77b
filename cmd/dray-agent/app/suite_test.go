package app_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/klog/v2/textlogger"

	"drayage.dev/cmd/dray-agent/app"
	"drayage.dev/controlplane"
	"drayage.dev/controlplane/join"
	"drayage.dev/test/single"
)

// The specs run in a network namespace of their own, which leads nowhere: this binary starts itself again
// inside one. The agent is this binary, too, as a process of its own, so that it can be killed.
const (
	agentVariable = "DRAYAGE_SPEC_AGENT"
	// takeDownVariable makes the agent end everything when it stops.
	takeDownVariable = "DRAYAGE_SPEC_TAKE_DOWN"

	nodeName    = "node-a"
	nodeAddress = "172.30.99.1"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(agentVariable); dir != "" {
		if err := runAgent(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestAgent(t *testing.T) {
	if !single.Inside(t, "--net") {
		return
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	RunSpecs(t, "node agent")
}

func config(dir string) app.Config {
	config := app.DefaultConfig()
	config.NodeName, config.NodeIP = nodeName, nodeAddress
	config.DataDir, config.RunDir = filepath.Join(dir, "node"), filepath.Join(dir, "run")
	config.CgroupRoot = "/drayage-test-" + filepath.Base(dir)
	config.BinDir = filepath.Join(dir, "bin")
	config.Kubeconfig = filepath.Join(config.DataDir, "agent", "kubeconfig")
	return config
}

// runAgent joins the cluster and runs the node, as `dray agent` does.
func runAgent(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx = logr.NewContext(ctx, textlogger.NewLogger(textlogger.NewConfig()))
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return err
	}
	url, err := os.ReadFile(filepath.Join(dir, "url"))
	if err != nil {
		return err
	}
	config := config(dir)
	credentials, err := join.Ensure(ctx, join.Config{
		Server: string(url), Token: strings.TrimSpace(string(token)), NodeName: nodeName, Dir: filepath.Join(config.DataDir, "agent"),
	})
	if err != nil {
		return err
	}
	certificates, err := credentials.Keep(ctx, []net.IP{net.ParseIP(nodeAddress)}, []string{nodeName})
	if err != nil {
		return err
	}
	config.Kubeconfig, config.ClientCAFile, config.ServingCertificate = credentials.Kubeconfig, credentials.CAFile, certificates.Serving
	config.TakeDown = os.Getenv(takeDownVariable) != ""
	return app.Run(ctx, config)
}

// world is a control plane with its controllers and scheduler, and the directory of one node.
type world struct {
	dir string
	*single.Server
	agent *exec.Cmd
}

var w *world

var _ = BeforeSuite(func(ctx SpecContext) {
	Expect(single.Uplink(nodeAddress)).To(Succeed())
	dir, err := os.MkdirTemp("/tmp", "drayage-agent-")
	Expect(err).NotTo(HaveOccurred())
	w = &world{dir: dir}
	Expect(single.Run("go", "build", "-o", filepath.Join(dir, "bin")+"/", "drayage.dev/cmd/dray-cni", "drayage.dev/cmd/dray-dns")).To(Succeed())
	w.Server, err = single.Serve(dir, nodeAddress, controlplane.Config{})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(w.Stop)
	token, err := os.ReadFile(w.Info.TokenFile)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(dir, "token"), token, 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "url"), []byte(w.Info.URL), 0o600)).To(Succeed())
	Expect(single.Registry(ctx, filepath.Join(config(dir).DataDir, "agent", "containerd", "certs.d"))).To(Succeed())
	w.startAgent()
}, NodeTimeout(10*time.Minute))

var _ = AfterSuite(func(ctx SpecContext) {
	if w == nil {
		return
	}
	if w.agent != nil {
		w.killAgent()
	}
	Expect(app.Clean(ctx, config(w.dir))).To(Succeed())
	Expect(app.Clean(ctx, config(w.dir))).To(Succeed(), "a second time")
	mounts, err := os.ReadFile("/proc/self/mounts")
	Expect(err).NotTo(HaveOccurred())
	Expect(string(mounts)).NotTo(ContainSubstring(w.dir))
	Expect(filepath.Glob("/sys/fs/cgroup/*" + config(w.dir).CgroupRoot)).To(BeEmpty())
	Expect(os.RemoveAll(w.dir)).To(Succeed())
}, NodeTimeout(5*time.Minute))

var _ = ReportAfterEach(func(report SpecReport) {
	if report.Failed() && w != nil {
		fmt.Fprintf(GinkgoWriter, "agent's log, from the end:\n%s\n", single.Tail(filepath.Join(w.dir, "agent.log"), 8000))
		fmt.Fprintf(GinkgoWriter, "containerd's log, from the end:\n%s\n", single.Tail(filepath.Join(w.dir, "node/agent/containerd/containerd.log"), 3000))
	}
})

func (w *world) startAgent(environment ...string) {
	GinkgoHelper()
	log, err := os.OpenFile(filepath.Join(w.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	Expect(err).NotTo(HaveOccurred())
	defer log.Close()
	w.agent = exec.Command(os.Args[0])
	w.agent.Env = append(append(os.Environ(), agentVariable+"="+w.dir), environment...)
	w.agent.Stdout, w.agent.Stderr = log, log
	Expect(w.agent.Start()).To(Succeed())
}

func (w *world) killAgent() {
	GinkgoHelper()
	Expect(w.agent.Process.Kill()).To(Succeed())
	_ = w.agent.Wait()
	w.agent = nil
}

// stopAgent stops it in good order.
func (w *world) stopAgent() {
	GinkgoHelper()
	Expect(w.agent.Process.Signal(syscall.SIGTERM)).To(Succeed())
	Expect(w.agent.Wait()).To(Succeed())
	w.agent = nil
}

// processes returns how many processes the node's pods have.
func processesOf(uid string) []string {
	var found []string
	for _, pattern := range []string{"", "burstable/", "besteffort/"} {
		paths, _ := filepath.Glob("/sys/fs/cgroup/memory" + config(w.dir).CgroupRoot + "/" + pattern + "pod" + uid + "/*/cgroup.procs")
		for _, path := range paths {
			data, _ := os.ReadFile(path)
			found = append(found, strings.Fields(string(data))...)
		}
	}
	return found
}
