package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
	utilexec "k8s.io/utils/exec"

	"drayage.dev/agent"
)

const (
	// callTimeout bounds calls that only read or write the runtime's records.
	callTimeout = 30 * time.Second
	// makeTimeout bounds making a sandbox or a container; an image may have to be unpacked on the way.
	makeTimeout = 4 * time.Minute
	// removeTimeout bounds stopping and removing one pod.
	removeTimeout = 2 * time.Minute
)

// Cgroups kills what a runtime left behind, and knows the bounds of the node. agent/cgroups.Tree satisfies it.
type Cgroups interface {
	RemovePod(ctx context.Context, pod types.UID) error
	// CPUQuota bounds what a container may have to what the node has.
	CPUQuota(wanted, period int64) int64
}

// Config is what a Runtime needs.
type Config struct {
	// Conn is the connection to the runtime.
	Conn *grpc.ClientConn
	// Cgroups may be nil: then nothing is checked after a removal.
	Cgroups Cgroups
	// Parallel bounds how many sandboxes and containers are made at a time; 8 when zero.
	Parallel int
	// RelistEvery is the period of the slow relist; 10 s when zero.
	RelistEvery time.Duration
}

// Runtime is a node's container runtime. It is safe for concurrent use; calls for one pod that change
// something must not overlap.
type Runtime struct {
	config Config
	client runtimeapi.RuntimeServiceClient
	// slots holds a token per sandbox or container that is being made.
	slots chan struct{}

	mu sync.Mutex
	// sandboxes and containers cache the detailed status of what is in a state that it leaves only for
	// another state; a change of state replaces the entry.
	sandboxes  map[string]sandboxEntry
	containers map[string]containerEntry
}

var (
	_ agent.PodRuntime = (*Runtime)(nil)
	_ agent.Containers = (*Runtime)(nil)
	_ agent.Execs      = (*Runtime)(nil)
	_ agent.Events     = (*Runtime)(nil)
)

// New returns a Runtime over the connection. It calls nothing yet.
func New(config Config) *Runtime {
	if config.Parallel == 0 {
		config.Parallel = 8
	}
	if config.RelistEvery == 0 {
		config.RelistEvery = 10 * time.Second
	}
	return &Runtime{
		config: config, client: runtimeapi.NewRuntimeServiceClient(config.Conn), slots: make(chan struct{}, config.Parallel),
		sandboxes: map[string]sandboxEntry{}, containers: map[string]containerEntry{},
	}
}

// take waits for a slot; the caller gives it back by calling release.
func (r *Runtime) take(ctx context.Context) (release func(), err error) {
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Prepare implements agent.PodRuntime.
func (r *Runtime) Prepare(ctx context.Context, plan *agent.PodPlan) (agent.Sandbox, error) {
	uid := types.UID(plan.Config.Metadata.Uid)
	states, err := r.List(ctx, uid)
	if err != nil {
		return agent.Sandbox{}, err
	}
	attempt := uint32(0)
	if len(states) > 0 && len(states[0].Sandboxes) > 0 {
		newest := states[0].Sandboxes[0]
		if newest.Ready {
			return newest, nil
		}
		if err := r.Halt(ctx, uid); err != nil {
			return agent.Sandbox{}, err
		}
		attempt = newest.Attempt + 1
		// The last one's containers tell how they ended; those before it are of no use to anyone.
		for _, older := range states[0].Sandboxes[1:] {
			if _, err := r.client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: older.ID}); err != nil && !gone(err) {
				return agent.Sandbox{}, fmt.Errorf("removing pod sandbox %s: %w", older.ID, plain(err))
			}
		}
	}
	release, err := r.take(ctx)
	if err != nil {
		return agent.Sandbox{}, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	plan.Config.Metadata.Attempt = attempt
	answer, err := r.client.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: plan.Config, RuntimeHandler: plan.RuntimeHandler})
	if err != nil {
		return agent.Sandbox{}, fmt.Errorf("creating pod sandbox: %w", plain(err))
	}
	return r.sandbox(ctx, answer.PodSandboxId, runtimeapi.PodSandboxState_SANDBOX_READY)
}

// Halt implements agent.PodRuntime.
func (r *Runtime) Halt(ctx context.Context, pod types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	sandboxes, err := r.podSandboxes(ctx, pod)
	if err != nil {
		return err
	}
	for _, sandbox := range sandboxes {
		// Stopping a sandbox kills its containers and takes back its network; it is idempotent.
		if _, err := r.client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil && !gone(err) {
			return fmt.Errorf("stopping pod sandbox %s: %w", sandbox.Id, plain(err))
		}
	}
	return r.sweep(ctx, pod)
}

// Remove implements agent.PodRuntime.
func (r *Runtime) Remove(ctx context.Context, pod types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := r.Halt(ctx, pod); err != nil {
		return err
	}
	sandboxes, err := r.podSandboxes(ctx, pod)
	if err != nil {
		return err
	}
	for _, sandbox := range sandboxes {
		if _, err := r.client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil && !gone(err) {
			return fmt.Errorf("removing pod sandbox %s: %w", sandbox.Id, plain(err))
		}
	}
	// Containers whose sandbox's record is lost.
	containers, err := r.podContainers(ctx, pod)
	if err != nil {
		return err
	}
	for _, container := range containers {
		if _, err := r.client.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: container.Id}); err != nil && !gone(err) {
			return fmt.Errorf("removing container %s: %w", container.Id, plain(err))
		}
	}
	r.forget(sandboxes, containers)
	return nil
}

// sweep kills what is left of a pod: when a shim was killed, its processes go on without anyone knowing.
func (r *Runtime) sweep(ctx context.Context, pod types.UID) error {
	if r.config.Cgroups == nil {
		return nil
	}
	return r.config.Cgroups.RemovePod(ctx, pod)
}

// Start implements agent.Containers.
func (r *Runtime) Start(ctx context.Context, pod types.UID, plan *agent.ContainerPlan) (string, error) {
	release, err := r.take(ctx)
	if err != nil {
		return "", &agent.ContainerError{Creating: true, Err: err}
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	if limits := plan.Config.GetLinux().GetResources(); r.config.Cgroups != nil && limits != nil {
		limits.CpuQuota = r.config.Cgroups.CPUQuota(limits.CpuQuota, limits.CpuPeriod)
	}
	created, err := r.client.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: plan.SandboxID, Config: plan.Config, SandboxConfig: plan.Pod,
	})
	if err != nil {
		return "", &agent.ContainerError{Creating: true, Err: plain(err)}
	}
	if _, err := r.client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		return created.ContainerId, &agent.ContainerError{ID: created.ContainerId, Err: plain(err)}
	}
	return created.ContainerId, nil
}

// Stop implements agent.Containers.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+removeTimeout)
	defer cancel()
	// The interface counts whole seconds; a grace period is never cut.
	seconds := int64((grace + time.Second - 1) / time.Second)
	_, err := r.client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: seconds})
	if err != nil && !gone(err) {
		return fmt.Errorf("stopping container %s: %w", id, plain(err))
	}
	return nil
}

// Delete implements agent.Containers.
func (r *Runtime) Delete(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	container, err := r.Container(ctx, id)
	if err != nil {
		// Gone already, or the runtime is away; it is asked again as long as it lists the container.
		return nil
	}
	_, err = r.client.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	if err != nil && !gone(err) {
		return fmt.Errorf("removing container %s: %w", id, plain(err))
	}
	r.mu.Lock()
	delete(r.containers, id)
	r.mu.Unlock()
	// Its log, and what rotation has made of it.
	logs, err := filepath.Glob(container.LogPath + "*")
	if err != nil || container.LogPath == "" {
		return err
	}
	for _, log := range logs {
		if err := os.Remove(log); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Exec implements agent.Execs.
func (r *Runtime) Exec(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, int, error) {
	if timeout > 0 {
		// The runtime kills the command at its timeout; ours is a little later, for a runtime that hangs.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+2*time.Second)
		defer cancel()
	}
	answer, err := r.client.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: id, Cmd: command, Timeout: int64((timeout + time.Second - 1) / time.Second),
	})
	if err != nil {
		if status.Code(err) == codes.DeadlineExceeded {
			return nil, 0, fmt.Errorf("command %q timed out after %v: %w", command, timeout, context.DeadlineExceeded)
		}
		return nil, 0, fmt.Errorf("executing %q: %w", command, plain(err))
	}
	return append(answer.Stdout, answer.Stderr...), int(answer.ExitCode), nil
}

// Run is Exec for callers that want upstream's error: another exit code than 0 is a
// k8s.io/utils/exec.CodeExitError.
func (r *Runtime) Run(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, error) {
	output, code, err := r.Exec(ctx, id, command, timeout)
	if err == nil && code != 0 {
		err = utilexec.CodeExitError{Err: fmt.Errorf("command %q exited with %d: %s", command, code, output), Code: code}
	}
	return output, err
}

func (r *Runtime) podSandboxes(ctx context.Context, pod types.UID) ([]*runtimeapi.PodSandbox, error) {
	filter := &runtimeapi.PodSandboxFilter{}
	if pod != "" {
		filter.LabelSelector = map[string]string{kubelettypes.KubernetesPodUIDLabel: string(pod)}
	}
	answer, err := r.client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("listing pod sandboxes: %w", plain(err))
	}
	return answer.Items, nil
}

func (r *Runtime) podContainers(ctx context.Context, pod types.UID) ([]*runtimeapi.Container, error) {
	filter := &runtimeapi.ContainerFilter{}
	if pod != "" {
		filter.LabelSelector = map[string]string{kubelettypes.KubernetesPodUIDLabel: string(pod)}
	}
	answer, err := r.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", plain(err))
	}
	return answer.Containers, nil
}

// gone says that the runtime does not know the thing (any more).
func gone(err error) bool { return status.Code(err) == codes.NotFound }

// plain takes the transport's prefix off a runtime's error, since users read the text, and keeps what a
// caller may ask for.
func plain(err error) error {
	if err == nil {
		return nil
	}
	answer, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch answer.Code() {
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", answer.Message(), context.DeadlineExceeded)
	case codes.Canceled:
		return fmt.Errorf("%s: %w", answer.Message(), context.Canceled)
	}
	return errors.New(answer.Message())
}

// ReopenLog has the runtime begin a new log file for a running container, after its log was renamed.
func (r *Runtime) ReopenLog(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := r.client.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	return plain(err)
}
