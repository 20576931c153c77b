package podworker

import (
	"context"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	utilexec "k8s.io/utils/exec"
)

// hooks runs lifecycle hooks by upstream's handler, which asks for a pod's addresses where it dials.
type hooks struct {
	manager *Manager
	runner  kubecontainer.HandlerRunner
}

// hookDialTimeout bounds an HTTP hook's request; the container's grace period bounds it, too.
const hookDialTimeout = 30 * time.Second

func newHooks(m *Manager) hooks {
	h := hooks{manager: m}
	client := &http.Client{Timeout: hookDialTimeout, CheckRedirect: httpprobe.RedirectChecker(false)}
	h.runner = lifecycle.NewHandlerRunner(client, h, h, PodRecorder{m.Recorder})
	return h
}

// hook runs one hook; an error comes with the event's text.
func (m *Manager) hook(ctx context.Context, p *pass, container *corev1.Container, id string, handler *corev1.LifecycleHandler) (string, error) {
	pod := p.pod
	if handler.HTTPGet != nil && handler.HTTPGet.Host == "" {
		// Upstream's handler would ask the runtime; the pass knows.
		ips := p.podIPs()
		if len(ips) == 0 {
			err := fmt.Errorf("the pod has no address")
			return err.Error(), err
		}
		handler = handler.DeepCopy()
		handler.HTTPGet.Host = ips[0]
	}
	return m.hooks.runner.Run(ctx, kubecontainer.ContainerID{Type: "containerd", ID: id}, pod, container, handler)
}

// RunInContainer implements upstream's CommandRunner.
func (h hooks) RunInContainer(ctx context.Context, id kubecontainer.ContainerID, command []string, timeout time.Duration) ([]byte, error) {
	return h.execute(ctx, id.ID, command, timeout)
}

// execute runs a command; an exit code other than 0 is upstream's error for it.
func (h hooks) execute(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, error) {
	output, code, err := h.manager.Execs.Exec(ctx, id, command, timeout)
	if err == nil && code != 0 {
		err = utilexec.CodeExitError{Err: fmt.Errorf("command %q exited with %d: %s", command, code, output), Code: code}
	}
	return output, err
}

// GetPod and GetPodStatus are what upstream's handler asks for addresses; hook never lets it.
func (h hooks) GetPod(context.Context, types.UID) (*kubecontainer.Pod, error) {
	return &kubecontainer.Pod{}, nil
}

// GetPodStatus implements upstream's interface.
func (h hooks) GetPodStatus(context.Context, *kubecontainer.Pod) (*kubecontainer.PodStatus, error) {
	return &kubecontainer.PodStatus{}, nil
}
