package slot_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/agent/cgroups"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray/server"
	"drayage.dev/config"
	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/images"
)

// The machine of the specs is a network, a mount and a PID namespace of its own, whose first process is a
// shell that reaps: this binary starts itself again inside.
const (
	insideVariable = "DRAYAGE_SPEC_INSIDE"

	nodeName    = "node-a"
	nodeAddress = "172.30.98.1"
	slotCPU     = "1"
	slotMemory  = "1Gi"
)

func TestSlot(t *testing.T) {
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
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	RunSpecs(t, "slot")
}

// machine is a machine of a cluster: what its kubelet would look after, and the slot.
type machine struct {
	dir    string
	client client.WithWatch
	info   controlplane.Info
	// slot is Drayage's cgroup, pods the one that a kubelet's pods have.
	slot, pods *cgroups.Tree
	agent      *exec.Cmd
	launches   int
}

var m *machine

func run(argv ...string) {
	GinkgoHelper()
	output, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "%s: %s", strings.Join(argv, " "), output)
}

var _ = BeforeSuite(func(ctx SpecContext) {
	run("ip", "link", "set", "lo", "up")
	run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "nowhere")
	run("ip", "link", "set", "nowhere", "up")
	run("ip", "address", "add", nodeAddress+"/24", "dev", "uplink")
	run("ip", "link", "set", "uplink", "up")
	dir, err := os.MkdirTemp("/tmp", "drayage-slot-")
	Expect(err).NotTo(HaveOccurred())
	m = &machine{dir: dir}
	m.slot, err = cgroups.Open("/drayage-slot-" + filepath.Base(dir))
	Expect(err).NotTo(HaveOccurred())
	m.pods, err = cgroups.Open("/drayage-kubepods-" + filepath.Base(dir))
	Expect(err).NotTo(HaveOccurred())
	for _, folder := range []string{"image", "rootfs", "secrets", "node", "run"} {
		Expect(os.Mkdir(filepath.Join(dir, folder), 0o755)).To(Succeed())
	}
	run("go", "build", "-o", filepath.Join(dir, "image")+"/", "drayage.dev/cmd/dray-agent", "drayage.dev/cmd/dray-cni", "drayage.dev/cmd/dray-dns")
	run("make", "-s", "-C", "../..", "runtime")
	run("cp", "-a", "../../bin/runtime/.", filepath.Join(dir, "image"))
	m.startServer()
	m.grant(ctx)
	built, err := images.Build(ctx)
	Expect(err).NotTo(HaveOccurred())
	registry, err := images.NewRegistry(ctx, built)
	Expect(err).NotTo(HaveOccurred())
	listener, err := net.Listen("tcp", "127.0.0.1:5000")
	Expect(err).NotTo(HaveOccurred())
	go func() { _ = registry.Serve(listener) }()
	Expect(images.WriteHosts(filepath.Join(dir, "node/agent/containerd/certs.d"), "127.0.0.1:5000")).To(Succeed())
	m.startPod()
}, NodeTimeout(5*time.Minute))

var _ = AfterSuite(func(ctx SpecContext) {
	if m == nil {
		return
	}
	if m.agent != nil {
		m.killPod(ctx)
	}
	Expect(m.slot.Destroy(ctx)).To(Succeed())
	Expect(m.pods.Destroy(ctx)).To(Succeed())
	Expect(os.RemoveAll(m.dir)).To(Succeed())
}, NodeTimeout(time.Minute))

var _ = ReportAfterEach(func(report SpecReport) {
	if report.Failed() && m != nil {
		for _, file := range []string{"agent.log", "node/agent/containerd/containerd.log"} {
			log, _ := os.ReadFile(filepath.Join(m.dir, file))
			fmt.Fprintf(GinkgoWriter, "%s, from the end:\n%s\n", file, log[max(0, len(log)-6000):])
		}
	}
})

// startServer starts a control plane that knows agents by their service account.
func (m *machine) startServer() {
	GinkgoHelper()
	listener, err := net.Listen("tcp", nodeAddress+":0")
	Expect(err).NotTo(HaveOccurred())
	ready, done := make(chan controlplane.Info, 1), make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		done <- server.Run(ctx, server.Config{ControlPlane: controlplane.Config{
			DataDir: filepath.Join(m.dir, "server"), Listener: listener, Ephemeral: true, Agents: config.AgentServiceAccount,
			Ready: func(info controlplane.Info) { ready <- info },
		}})
	}()
	DeferCleanup(func() {
		stop()
		Eventually(done, time.Minute).Should(Receive(BeNil()))
	})
	select {
	case m.info = <-ready:
	case err := <-done:
		Fail(fmt.Sprintf("the control plane ended: %v", err))
	case <-time.After(2 * time.Minute):
		Fail("the control plane is not ready")
	}
	m.client, err = client.NewWithWatch(m.info.Admin, client.Options{Scheme: scheme.New()})
	Expect(err).NotTo(HaveOccurred())
}

// grant makes the agents' service account with the roles that the chart gives it.
func (m *machine) grant(ctx context.Context) {
	GinkgoHelper()
	const namespace, account = "drayage-system", "drayage-agent"
	Expect(m.client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}})).To(Succeed())
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}}
	for _, role := range []string{"drayage:node", "drayage:join"} {
		Expect(m.client.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "agents:" + role}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		})).To(Succeed())
	}
	Expect(m.client.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: "agents"}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "drayage:node"},
	})).To(Succeed())
	// A kubelet's token is bound to the agent's core pod; here there is no such kind, and a Node names it.
	node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	Expect(m.client.Create(ctx, node)).To(Succeed())
	clientset, err := kubernetes.NewForConfig(m.info.Admin)
	Expect(err).NotTo(HaveOccurred())
	token, err := clientset.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Node", Name: nodeName, UID: node.UID,
		}},
	}, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(m.dir, "token"), []byte(token.Status.Token), 0o600)).To(Succeed())
}

// inPod starts a program as a kubelet starts a container: in a cgroup that dies with the pod, and in a mount
// namespace that has the image and the token, which the machine does not see.
func (m *machine) inPod(log string, program ...string) *exec.Cmd {
	GinkgoHelper()
	m.launches++
	group := fmt.Sprintf("%s/pod%d", m.pods.Root(), m.launches)
	Expect(m.pods.Create(group)).To(Succeed())
	files, err := filepath.Glob("/sys/fs/cgroup/*" + group + "/cgroup.procs")
	Expect(err).NotTo(HaveOccurred())
	if m.pods.Unified() {
		files = []string{"/sys/fs/cgroup" + group + "/cgroup.procs"}
	}
	script := `set -e
for file in ` + strings.Join(files, " ") + `; do echo $$ > $file; done
mount --bind ` + m.dir + `/image ` + m.dir + `/rootfs
mount -t tmpfs tmpfs ` + m.dir + `/secrets
cp ` + m.dir + `/token ` + m.info.CAFile + ` ` + m.dir + `/secrets/
exec "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", script, "container"}, program...)...)
	host, port, err := net.SplitHostPort(strings.TrimPrefix(m.info.URL, "https://"))
	Expect(err).NotTo(HaveOccurred())
	cmd.Env = append(os.Environ(), "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port)
	output, err := os.OpenFile(filepath.Join(m.dir, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	Expect(err).NotTo(HaveOccurred())
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	Expect(cmd.Start()).To(Succeed())
	return cmd
}

// startPod starts the agent's pod.
func (m *machine) startPod() {
	GinkgoHelper()
	m.agent = m.inPod("agent.log", filepath.Join(m.dir, "rootfs/dray-agent"), "pod", "--data-dir", filepath.Join(m.dir, "node"),
		"--run-dir", filepath.Join(m.dir, "run"), "--service-account-dir", filepath.Join(m.dir, "secrets"),
		"--client-ca-file", filepath.Join(m.dir, "secrets", filepath.Base(m.info.CAFile)),
		"--", "--node-name", nodeName, "--node-ip", nodeAddress, "--cgroup-root", m.slot.Root(),
		"--slot-cpu", slotCPU, "--slot-memory", slotMemory)
}

// killPod does what a kubelet does at last: it kills whatever is in the pod's cgroup.
func (m *machine) killPod(ctx context.Context) {
	GinkgoHelper()
	reaped := make(chan error, 1)
	agent := m.agent
	go func() { reaped <- agent.Wait() }()
	Expect(m.pods.Destroy(ctx)).To(Succeed())
	Eventually(reaped).Should(Receive())
	m.agent = nil
}
