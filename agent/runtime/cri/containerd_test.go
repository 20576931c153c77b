package cri_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"drayage.dev/agent"
	"drayage.dev/agent/cgroups"
	"drayage.dev/agent/containerd"
	"drayage.dev/agent/runtime/cri"
	"drayage.dev/test/images"
)

// machine is a containerd of the specs' own, in a network namespace that leads nowhere.
type machine struct {
	dir, run, namespace string
	tree                *cgroups.Tree
	daemon              *containerd.Daemon
	conn                *grpc.ClientConn
	runtime             *cri.Runtime
	stop                context.CancelFunc
	stopped             chan error
}

var m *machine

var _ = BeforeSuite(func(ctx SpecContext) {
	Expect(os.Geteuid()).To(BeZero(), "these specs run containers: they need root")
	name := "agent-cri-" + strconv.Itoa(os.Getpid())
	m = &machine{dir: GinkgoT().TempDir(), run: "/run/" + name, namespace: name}
	Expect(exec.Command("ip", "netns", "add", name).Run()).To(Succeed())
	Expect(exec.Command("ip", "-n", name, "link", "set", "lo", "up").Run()).To(Succeed())
	var err error
	m.tree, err = cgroups.Open("/drayage-test-" + name)
	Expect(err).NotTo(HaveOccurred())
	m.daemon, err = containerd.New(containerd.Config{
		Launcher: []string{"nsenter", "--net=/run/netns/" + name},
		DataDir:  filepath.Join(m.dir, "containerd"), RunDir: m.run,
		RegistryDir: filepath.Join(m.dir, "certs.d"),
		Cgroups:     m.tree, Cgroup: m.tree.Root() + "/runtime",
		Network: []byte(`{"cniVersion":"1.0.0","name":"none","plugins":[{"type":"none"}]}`),
	})
	Expect(err).NotTo(HaveOccurred())
	m.start()
	built, err := images.Build(ctx)
	Expect(err).NotTo(HaveOccurred())
	for _, image := range built {
		if image.Name == "busybox:1.36" {
			Expect(containerd.Import(ctx, m.conn, "docker.io/library/"+image.Name, image.Image)).To(Succeed())
		}
	}
}, NodeTimeout(5*time.Minute))

var _ = AfterSuite(func(ctx SpecContext) {
	if m == nil || m.daemon == nil {
		return
	}
	states, err := m.runtime.List(ctx)
	Expect(err).NotTo(HaveOccurred())
	for _, state := range states {
		Expect(m.runtime.Remove(ctx, state.UID)).To(Succeed())
	}
	m.leave()
	Expect(m.daemon.Stop(ctx)).To(Succeed())
	Expect(containerd.Clean(containerd.Config{DataDir: filepath.Join(m.dir, "containerd"), RunDir: m.run})).To(Succeed())
	Expect(m.tree.Destroy(ctx)).To(Succeed())
	Expect(exec.Command("ip", "netns", "del", m.namespace).Run()).To(Succeed())
	mounts, err := os.ReadFile("/proc/self/mounts")
	Expect(err).NotTo(HaveOccurred())
	Expect(string(mounts)).NotTo(ContainSubstring(m.dir))
	Expect(string(mounts)).NotTo(ContainSubstring(m.run))
	Expect(filepath.Glob("/sys/fs/cgroup/*" + m.tree.Root())).To(BeEmpty())
}, NodeTimeout(3*time.Minute))

// start supervises the daemon as an agent would, and connects.
func (m *machine) start() {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(logr.NewContext(context.Background(), GinkgoLogr))
	m.stop, m.stopped = cancel, make(chan error, 1)
	go func() { m.stopped <- m.daemon.Run(ctx) }()
	var err error
	m.conn, err = m.daemon.Connect()
	Expect(err).NotTo(HaveOccurred())
	ready, done := context.WithTimeout(ctx, 2*time.Minute)
	defer done()
	name, version, err := m.daemon.Ready(ready, m.conn)
	Expect(err).NotTo(HaveOccurred())
	Expect(name).To(Equal("containerd"))
	Expect(version).To(MatchRegexp(`^\d+\.\d+\.\d+`))
	m.runtime = cri.New(cri.Config{Conn: m.conn, Cgroups: m.tree, RelistEvery: time.Second})
}

// leave ends the supervision as an agent's end does; the daemon goes on.
func (m *machine) leave() {
	GinkgoHelper()
	m.stop()
	Eventually(m.stopped).Should(Receive(BeNil()))
	Expect(m.conn.Close()).To(Succeed())
}

func (m *machine) pid() (int, error) {
	text, err := os.ReadFile(filepath.Join(m.run, "containerd.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// pod returns the plan of a pod that shares the node's (empty) network.
func (m *machine) pod(name string) *agent.PodPlan {
	uid := uuid.NewUUID()
	return &agent.PodPlan{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: string(uid)},
		Labels: map[string]string{
			kubelettypes.KubernetesPodNameLabel: name, kubelettypes.KubernetesPodNamespaceLabel: "default",
			kubelettypes.KubernetesPodUIDLabel: string(uid),
		},
		LogDirectory: filepath.Join(m.dir, "logs", name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: m.tree.Root() + "/pod" + string(uid),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
				Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER,
			}},
		},
	}}
}

func (m *machine) container(sandbox agent.Sandbox, pod *agent.PodPlan, name string, command ...string) *agent.ContainerPlan {
	GinkgoHelper()
	Expect(os.MkdirAll(filepath.Join(pod.Config.LogDirectory, name), 0o755)).To(Succeed())
	labels := map[string]string{kubelettypes.KubernetesContainerNameLabel: name}
	for key, value := range pod.Config.Labels {
		labels[key] = value
	}
	return &agent.ContainerPlan{SandboxID: sandbox.ID, Pod: pod.Config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "busybox:1.36"}, Command: command,
		Labels: labels, LogPath: name + "/0.log", Linux: &runtimeapi.LinuxContainerConfig{},
	}}
}

func (m *machine) only(ctx context.Context, pod types.UID) agent.PodState {
	GinkgoHelper()
	states, err := m.runtime.List(ctx, pod)
	Expect(err).NotTo(HaveOccurred())
	Expect(states).To(HaveLen(1))
	return states[0]
}

var _ = Describe("a pod over containerd", func() {
	It("runs, executes, exits, and leaves nothing", func(ctx SpecContext) {
		plan := m.pod("simple")
		uid := types.UID(plan.Config.Metadata.Uid)
		sandbox, err := m.runtime.Prepare(ctx, plan)
		Expect(err).NotTo(HaveOccurred())
		again, err := m.runtime.Prepare(ctx, plan)
		Expect(err).NotTo(HaveOccurred())
		Expect(again.ID).To(Equal(sandbox.ID), "a second Prepare finds the first one's sandbox")

		events := m.runtime.Watch(ctx)
		id, err := m.runtime.Start(ctx, uid, m.container(sandbox, plan, "main", "sh", "-c", "sleep 300"))
		Expect(err).NotTo(HaveOccurred())
		state := m.only(ctx, uid)
		Expect(state.Containers).To(HaveLen(1))
		Expect(state.Containers[0].Phase).To(Equal(agent.ContainerRunning))

		output, code, err := m.runtime.Exec(ctx, id, []string{"sh", "-c", "echo hello"}, time.Minute)
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(BeZero())
		Expect(string(output)).To(Equal("hello\n"))

		Expect(m.runtime.Stop(ctx, id, 0)).To(Succeed())
		Eventually(events).Should(Receive(HaveField("ContainerID", id)))
		exited := m.only(ctx, uid).Containers[0]
		Expect(exited.Phase).To(Equal(agent.ContainerExited))
		Expect(exited.ExitCode).To(BeEquivalentTo(137))
		Expect(exited.FinishedAt).To(BeTemporally("~", time.Now(), time.Minute))

		Expect(m.runtime.Remove(ctx, uid)).To(Succeed())
		Expect(m.runtime.Remove(ctx, uid)).To(Succeed())
		Expect(m.runtime.List(ctx, uid)).To(BeEmpty())
		Expect(m.tree.Pods()).NotTo(ContainElement(uid))
	}, SpecTimeout(4*time.Minute))

	It("tells of an exit at once", func(ctx SpecContext) {
		plan := m.pod("exits")
		uid := types.UID(plan.Config.Metadata.Uid)
		sandbox, err := m.runtime.Prepare(ctx, plan)
		Expect(err).NotTo(HaveOccurred())
		events := m.runtime.Watch(ctx)
		id, err := m.runtime.Start(ctx, uid, m.container(sandbox, plan, "main", "sh", "-c", "sleep 0.3; exit 3"))
		Expect(err).NotTo(HaveOccurred())
		Eventually(events).Should(Receive(And(HaveField("Pod", uid), HaveField("ContainerID", id))))
		Eventually(func() agent.ContainerPhase { return m.only(ctx, uid).Containers[0].Phase }).Should(Equal(agent.ContainerExited))
		Expect(m.only(ctx, uid).Containers[0].ExitCode).To(BeEquivalentTo(3))
		Expect(m.runtime.Remove(ctx, uid)).To(Succeed())
	}, SpecTimeout(4*time.Minute))

	It("names what a container could not be made for", func(ctx SpecContext) {
		plan := m.pod("refused")
		uid := types.UID(plan.Config.Metadata.Uid)
		sandbox, err := m.runtime.Prepare(ctx, plan)
		Expect(err).NotTo(HaveOccurred())
		_, err = m.runtime.Start(ctx, uid, m.container(sandbox, plan, "main", "/no/such/command"))
		var refused *agent.ContainerError
		Expect(err).To(BeAssignableToTypeOf(refused))
		Expect(err).To(MatchError(ContainSubstring("/no/such/command")))
		Expect(err).NotTo(MatchError(ContainSubstring("rpc error")))
		Expect(m.runtime.Remove(ctx, uid)).To(Succeed())
	}, SpecTimeout(4*time.Minute))

	It("keeps containers through the end of agent and daemon", func(ctx SpecContext) {
		plan := m.pod("stays")
		uid := types.UID(plan.Config.Metadata.Uid)
		sandbox, err := m.runtime.Prepare(ctx, plan)
		Expect(err).NotTo(HaveOccurred())
		id, err := m.runtime.Start(ctx, uid, m.container(sandbox, plan, "main", "sh", "-c", "sleep 300"))
		Expect(err).NotTo(HaveOccurred())
		before, err := m.pid()
		Expect(err).NotTo(HaveOccurred())

		m.leave()
		m.start()
		Expect(m.pid()).To(Equal(before), "the next agent finds the daemon")
		Expect(m.only(ctx, uid).Containers[0].ID).To(Equal(id))

		Expect(unix.Kill(before, unix.SIGKILL)).To(Succeed())
		Eventually(m.pid).ShouldNot(Equal(before))
		Eventually(func() error {
			_, err := net.Dial("unix", m.daemon.Socket())
			return err
		}).Should(Succeed())
		Eventually(func(g Gomega) {
			states, err := m.runtime.List(ctx, uid)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(states).To(HaveLen(1))
			g.Expect(states[0].Containers[0].ID).To(Equal(id))
			g.Expect(states[0].Containers[0].Phase).To(Equal(agent.ContainerRunning))
		}).Should(Succeed())
		Expect(m.runtime.Remove(ctx, uid)).To(Succeed())
	}, SpecTimeout(4*time.Minute))

	It("kills what a killed shim leaves behind", func(ctx SpecContext) {
		plan := m.pod("shimless")
		uid := types.UID(plan.Config.Metadata.Uid)
		sandbox, err := m.runtime.Prepare(ctx, plan)
		Expect(err).NotTo(HaveOccurred())
		_, err = m.runtime.Start(ctx, uid, m.container(sandbox, plan, "main", "sh", "-c", "sleep 300"))
		Expect(err).NotTo(HaveOccurred())
		processes := m.tree.Processes(plan.Config.Linux.CgroupParent)
		Expect(len(processes)).To(BeNumerically(">=", 2))
		parent, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", processes[0]))
		Expect(err).NotTo(HaveOccurred())
		shim, err := strconv.Atoi(strings.Fields(string(parent))[3])
		Expect(err).NotTo(HaveOccurred())
		Expect(unix.Kill(shim, unix.SIGKILL)).To(Succeed())

		// Until containerd has heard of the shim's end it may call the container running.
		Eventually(func() error { return m.runtime.Remove(ctx, uid) }).Should(Succeed())
		for _, pid := range processes {
			// Orphans are reaped by the machine's init in its own time; until then they are husks that
			// run nothing.
			_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			Expect(err).To(HaveOccurred(), "process %d goes on", pid)
		}
	}, SpecTimeout(4*time.Minute))
})
