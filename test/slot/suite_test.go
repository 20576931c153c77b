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

	"drayage.dev/agent/cgroups"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/config"
	"drayage.dev/controlplane"
	"drayage.dev/test/single"
)

// The machine of the specs is a network, a mount and a PID namespace of its own, whose first process is a
// shell that reaps: this binary starts itself again inside.
const (
	nodeName    = "node-a"
	nodeAddress = "172.30.98.1"
	slotCPU     = "1"
	slotMemory  = "1Gi"
)

func TestSlot(t *testing.T) {
	if !single.Inside(t, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", `"$@"; exit $?`, "init") {
		return
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	RunSpecs(t, "slot")
}

// machine is a machine of a cluster: what its kubelet would look after, and the slot.
type machine struct {
	dir string
	*single.Server
	// slot is Drayage's cgroup, pods the one that a kubelet's pods have.
	slot, pods *cgroups.Tree
	agent      *exec.Cmd
	launches   int
}

var m *machine

var _ = BeforeSuite(func(ctx SpecContext) {
	Expect(single.Uplink(nodeAddress)).To(Succeed())
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
	Expect(single.Run("go", "build", "-o", filepath.Join(dir, "image")+"/", "drayage.dev/cmd/dray-agent", "drayage.dev/cmd/dray-cni", "drayage.dev/cmd/dray-dns")).To(Succeed())
	Expect(single.Run("make", "-s", "-C", "../..", "runtime")).To(Succeed())
	Expect(single.Run("cp", "-a", "../../bin/runtime/.", filepath.Join(dir, "image"))).To(Succeed())
	// It knows agents by their service account.
	m.Server, err = single.Serve(dir, nodeAddress, controlplane.Config{Agents: config.AgentServiceAccount})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(m.Stop)
	m.grant(ctx)
	Expect(single.Registry(ctx, filepath.Join(dir, "node/agent/containerd/certs.d"))).To(Succeed())
	m.startPod()
}, NodeTimeout(10*time.Minute))

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
}, NodeTimeout(5*time.Minute))

var _ = ReportAfterEach(func(report SpecReport) {
	if report.Failed() && m != nil {
		for _, file := range []string{"agent.log", "node/agent/containerd/containerd.log"} {
			fmt.Fprintf(GinkgoWriter, "%s, from the end:\n%s\n", file, single.Tail(filepath.Join(m.dir, file), 6000))
		}
	}
})

// grant makes the agents' service account with the roles that the chart gives it.
func (m *machine) grant(ctx context.Context) {
	GinkgoHelper()
	const namespace, account = "drayage-system", "drayage-agent"
	Expect(m.Client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}})).To(Succeed())
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}}
	for _, role := range []string{"drayage:node", "drayage:join"} {
		Expect(m.Client.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "agents:" + role}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		})).To(Succeed())
	}
	Expect(m.Client.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: "agents"}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "drayage:node"},
	})).To(Succeed())
	// A kubelet's token is bound to the agent's core pod; here there is no such kind, and a Node names it.
	node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	Expect(m.Client.Create(ctx, node)).To(Succeed())
	clientset, err := kubernetes.NewForConfig(m.Info.Admin)
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
cp ` + m.dir + `/token ` + m.Info.CAFile + ` ` + m.dir + `/secrets/
exec "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", script, "container"}, program...)...)
	host, port, err := net.SplitHostPort(strings.TrimPrefix(m.Info.URL, "https://"))
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
		"--client-ca-file", filepath.Join(m.dir, "secrets", filepath.Base(m.Info.CAFile)),
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
