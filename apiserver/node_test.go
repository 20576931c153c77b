package apiserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cristreaming "k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"drayage.dev/agent/streaming"
	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/internal/upstream"
)

// scriptedNode is a node without containers: the agent's real streaming server, with real certificates,
// over a container runtime that plays its part.
type scriptedNode struct {
	name string
	logs string
	// shutdown ends the agent's server and its streams.
	shutdown context.CancelFunc

	mu      sync.Mutex
	pods    map[string]*corev1.Pod
	running map[string]bool
}

// startNode registers and serves a node until the spec ends.
func startNode(ctx context.Context, name string) *scriptedNode {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	n := &scriptedNode{name: name, logs: GinkgoT().TempDir(), pods: map[string]*corev1.Pod{}, running: map[string]bool{}}

	// The API server's own serving certificate will do: it is the cluster's, and names loopback.
	pkiDir := filepath.Join(server.DataDir, "server", "pki")
	ca, err := os.ReadFile(server.Info.CAFile)
	Expect(err).NotTo(HaveOccurred())
	pool := x509.NewCertPool()
	Expect(pool.AppendCertsFromPEM(ca)).To(BeTrue())
	agent := streaming.New(streaming.Config{
		Listener: listener, ClientCAs: pool, Pods: n, Runtime: newScriptedRuntime(n), Check: http.HandlerFunc(n.check),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(filepath.Join(pkiDir, "apiserver.crt"), filepath.Join(pkiDir, "apiserver.key"))
			return &cert, err
		},
	})
	running, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	n.shutdown = stop
	go func() { done <- agent.Run(running) }()
	DeferCleanup(func() {
		stop()
		Expect(<-done).To(Succeed())
	})
	registerNode(ctx, name, "127.0.0.1", listener.Addr().(*net.TCPAddr).Port)
	return n
}

// check answers a question for the network with the nodes that it names.
func (n *scriptedNode) check(w http.ResponseWriter, request *http.Request) {
	var asked subresourcesv1alpha1.NetworkCheck
	if err := json.NewDecoder(request.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var report subresourcesv1alpha1.NetworkCheckReport
	for _, node := range asked.Nodes {
		report.Findings = append(report.Findings, subresourcesv1alpha1.NetworkFinding{Broken: true, Message: n.name + " to " + node.Name})
	}
	_ = json.NewEncoder(w).Encode(report)
}

// registerNode tells the API server where the agent of a node listens.
func registerNode(ctx context.Context, name, address string, port int) {
	GinkgoHelper()
	node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	Expect(admin.Create(ctx, node)).To(Succeed())
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	Expect(admin.Status().Update(ctx, node)).To(Succeed())
}

// Pod is the agent's view of a pod.
func (n *scriptedNode) Pod(namespace, name string) (*corev1.Pod, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pod, ok := n.pods[namespace+"/"+name]
	return pod, ok
}

// run creates the pod in the API and runs its containers on the node.
func (n *scriptedNode) run(ctx context.Context, pod *dcorev1.Pod) {
	GinkgoHelper()
	pod.Spec.NodeName = n.name
	Expect(admin.Create(ctx, pod)).To(Succeed())
	var statuses []corev1.ContainerStatus
	for _, container := range pod.Spec.Containers {
		statuses = append(statuses, corev1.ContainerStatus{
			Name: container.Name, ContainerID: "containerd://" + pod.Name + "-" + container.Name,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		})
	}
	n.report(pod, statuses...)
}

// report makes statuses those that the agent knows of the pod.
func (n *scriptedNode) report(pod *dcorev1.Pod, statuses ...corev1.ContainerStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := upstream.Pod(pod.DeepCopy())
	seen.Status.ContainerStatuses = statuses
	n.pods[pod.Namespace+"/"+pod.Name] = seen
	for _, status := range statuses {
		n.running[status.ContainerID[len("containerd://"):]] = status.State.Running != nil
	}
}

// stop ends a container, as far as the runtime knows.
func (n *scriptedNode) stop(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running[id] = false
}

// write appends lines to the log of a container.
func (n *scriptedNode) write(id string, lines ...string) {
	GinkgoHelper()
	file, err := os.OpenFile(n.logPath(id), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	Expect(err).NotTo(HaveOccurred())
	defer file.Close()
	for _, line := range lines {
		_, err := fmt.Fprintf(file, "2026-01-02T03:04:05.000000006Z stdout F %s\n", line)
		Expect(err).NotTo(HaveOccurred())
	}
}

func (n *scriptedNode) logPath(id string) string { return filepath.Join(n.logs, id+".log") }

// scriptedRuntime plays a container runtime: containers' logs are the node's files, and commands do what
// their name says.
type scriptedRuntime struct {
	runtimeapi.RuntimeServiceClient
	node    *scriptedNode
	streams cristreaming.Server
}

func newScriptedRuntime(node *scriptedNode) *scriptedRuntime {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	runtime := &scriptedRuntime{node: node}
	config := cristreaming.DefaultConfig
	config.Addr = listener.Addr().String()
	runtime.streams, err = cristreaming.NewServer(config, runtime.commands())
	Expect(err).NotTo(HaveOccurred())
	httpServer := &http.Server{Handler: runtime.streams}
	go func() { _ = httpServer.Serve(listener) }()
	DeferCleanup(httpServer.Close)
	return runtime
}

func (r *scriptedRuntime) commands() cristreaming.Runtime { return scriptedCommands{} }

func (r *scriptedRuntime) ContainerStatus(_ context.Context, request *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	r.node.mu.Lock()
	defer r.node.mu.Unlock()
	running, ok := r.node.running[request.ContainerId]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "container %q not found", request.ContainerId)
	}
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if running {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: request.ContainerId, State: state, LogPath: r.node.logPath(request.ContainerId),
	}}, nil
}

func (r *scriptedRuntime) ListPodSandbox(_ context.Context, request *runtimeapi.ListPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	uid := request.Filter.LabelSelector["io.kubernetes.pod.uid"]
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "sandbox-of-" + uid}}}, nil
}

func (r *scriptedRuntime) Exec(_ context.Context, request *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	return r.streams.GetExec(request)
}

func (r *scriptedRuntime) Attach(_ context.Context, request *runtimeapi.AttachRequest, _ ...grpc.CallOption) (*runtimeapi.AttachResponse, error) {
	return r.streams.GetAttach(request)
}

func (r *scriptedRuntime) PortForward(_ context.Context, request *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	return r.streams.GetPortForward(request)
}

// scriptedCommands are the commands that every container knows.
type scriptedCommands struct{}

func (scriptedCommands) Exec(ctx context.Context, id string, command []string, in io.Reader, out, errors io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	switch command[0] {
	case "whoami":
		fmt.Fprint(out, id)
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "fail":
		fmt.Fprint(errors, "failing as asked")
		return utilexec.CodeExitError{Err: fmt.Errorf("exit status 7"), Code: 7}
	case "size":
		size := <-resize
		fmt.Fprintf(out, "%dx%d", size.Width, size.Height)
	default:
		return fmt.Errorf("no such command: %q", command)
	}
	return nil
}

// Attach joins a process that greets and leaves.
func (scriptedCommands) Attach(_ context.Context, id string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	fmt.Fprint(out, "attached to "+id)
	return nil
}

// PortForward serves every port with an echo that names it.
func (scriptedCommands) PortForward(_ context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	buffer := make([]byte, 64)
	n, err := stream.Read(buffer)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stream, "%s port %d heard %s", sandbox, port, buffer[:n])
	return err
}
