//go:build cluster

package kubelet_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent/cgroups"
	"drayage.dev/controlplane/pki"
	"drayage.dev/internal/scheme"
)

// The machine is a network, a mount and a PID namespace, whose first process is a shell that reaps: this binary
// starts itself again inside.
const (
	insideVariable = "DRAYAGE_SPEC_INSIDE"

	nodeName    = "node-a"
	nodeAddress = "172.30.97.1"
	port        = "6443"
	namespace   = "drayage-system"
)

func TestKubelet(t *testing.T) {
	if os.Getenv(insideVariable) == "" {
		if os.Geteuid() != 0 {
			t.Fatal("these specs run containers: they need root")
		}
		cmd := exec.Command("unshare", append([]string{
			"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", `"$@"; exit $?`, "init", os.Args[0],
		}, os.Args[1:]...)...)
		cmd.Env = append(os.Environ(), insideVariable+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		return
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	RunSpecs(t, "kubelet")
}

// machine is a cluster of one node.
type machine struct {
	dir string
	pki *pki.PKI
	// api reaches the API server as an administrator.
	api client.WithWatch
	// slot is Drayage's cgroup, pods the kubelet's, runtime that of the container runtime that it uses.
	slot, pods, runtime *cgroups.Tree
	kubelet             *process
}

var m *machine

var _ = BeforeSuite(func(ctx SpecContext) {
	for _, argv := range []string{
		"ip link set lo up", "ip link add uplink type veth peer name nowhere", "ip link set nowhere up",
		"ip address add " + nodeAddress + "/24 dev uplink", "ip link set uplink up",
		// What a kubelet mounts into pods, it mounts for its container runtime, too.
		"mount --make-rshared /",
	} {
		fields := strings.Fields(argv)
		output, err := exec.Command(fields[0], fields[1:]...).CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), "%s: %s", argv, output)
	}
	dir, err := os.MkdirTemp("/tmp", "drayage-kubelet-")
	Expect(err).NotTo(HaveOccurred())
	m = &machine{dir: dir}
	for name, tree := range map[string]**cgroups.Tree{"slot": &m.slot, "pods": &m.pods, "runtime": &m.runtime} {
		*tree, err = cgroups.Open("/" + filepath.Base(dir) + "-" + name)
		Expect(err).NotTo(HaveOccurred())
	}
	// Registered first, it is the last to be done.
	DeferCleanup(m.remove)
	Expect(m.pods.Create(m.pods.Root())).To(Succeed())
	m.startAPIServer()
	config, err := m.pki.RESTConfig("https://"+nodeAddress+":"+port, pki.Identity{User: "admin", Groups: []string{"system:masters"}})
	Expect(err).NotTo(HaveOccurred())
	config.QPS = -1
	kinds := scheme.New()
	Expect(apiextensionsv1.AddToScheme(kinds)).To(Succeed())
	m.api, err = client.NewWithWatch(config, client.Options{Scheme: kinds})
	Expect(err).NotTo(HaveOccurred())
	m.keepHouse(config)
	m.install(ctx)
	m.startRuntime(ctx)
	m.startKubelet()
}, NodeTimeout(4*time.Minute))

var _ = ReportAfterEach(func(report SpecReport) {
	if report.Failed() && m != nil {
		logs, _ := filepath.Glob(filepath.Join(m.dir, "logs/*/*/*.log"))
		for _, file := range append(logs, filepath.Join(m.dir, "kubelet.log"), filepath.Join(m.dir, "node/agent/containerd/containerd.log")) {
			log, _ := os.ReadFile(file)
			fmt.Fprintf(GinkgoWriter, "%s, from the end:\n%s\n", file, log[max(0, len(log)-5000):])
		}
	}
})

// remove takes the machine apart.
func (m *machine) remove(ctx context.Context) {
	if m.kubelet != nil {
		m.kubelet.kill()
	}
	for _, tree := range []*cgroups.Tree{m.pods, m.slot, m.runtime} {
		Expect(tree.Destroy(ctx)).To(Succeed())
	}
	// What is mounted here must not be taken for files.
	script := `for point in $(awk '{print $2}' /proc/self/mounts | grep "^` + m.dir + `" | tac); do umount -l $point; done
rm -rf --one-file-system ` + m.dir
	output, err := exec.Command("sh", "-c", script).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(output))
}

// background runs a controller in this process until the suite ends.
func background(work func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = work(ctx)
	}()
	DeferCleanup(func() { stop(); <-done })
}

// repository is the folder that bin is in.
func repository() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// identity returns a kubeconfig of a client certificate.
func (m *machine) identity(name string, id pki.Identity) string {
	GinkgoHelper()
	cert, key, err := m.pki.IssueClient(id)
	Expect(err).NotTo(HaveOccurred())
	return m.write(name+".conf", kubeconfig("https://"+nodeAddress+":"+port, m.pki.CertPEM(), cert, key))
}

func (m *machine) write(name string, data []byte) string {
	GinkgoHelper()
	path := filepath.Join(m.dir, name)
	Expect(os.WriteFile(path, data, 0o600)).To(Succeed())
	return path
}
