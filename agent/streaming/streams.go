package streaming

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	kubelettypes "k8s.io/kubelet/pkg/types"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
)

// exec runs a command in a running container.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	s.inContainer(w, r, func(ctx context.Context, id string, o *remotecommand.Options) (string, error) {
		answer, err := s.config.Runtime.Exec(ctx, &runtimeapi.ExecRequest{
			ContainerId: id, Cmd: r.URL.Query()["command"],
			Tty: o.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		})
		return answer.GetUrl(), err
	})
}

// attach joins the streams of a running container's first process.
func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	s.inContainer(w, r, func(ctx context.Context, id string, o *remotecommand.Options) (string, error) {
		answer, err := s.config.Runtime.Attach(ctx, &runtimeapi.AttachRequest{
			ContainerId: id, Tty: o.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		})
		return answer.GetUrl(), err
	})
}

// inContainer passes the request on to where prepare says that the runtime serves it.
func (s *Server) inContainer(w http.ResponseWriter, r *http.Request, prepare func(context.Context, string, *remotecommand.Options) (string, error)) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod, ok := s.pod(w, r)
	if !ok {
		return
	}
	name := r.PathValue("container")
	status, ok := containerStatus(pod, name)
	if !ok || status.State.Running == nil || status.ContainerID == "" {
		http.Error(w, fmt.Sprintf("container %q of pod %q is not running%s", name, pod.Name, reasonOf(status)), http.StatusBadRequest)
		return
	}
	target, err := prepare(r.Context(), kubecontainer.ParseContainerID(status.ContainerID).ID, options)
	if err != nil {
		_ = streaming.WriteError(err, w)
		return
	}
	pass(w, r, target)
}

// reasonOf says, in brackets, why a container does not run.
func reasonOf(status corev1.ContainerStatus) string {
	switch {
	case status.State.Waiting != nil && status.State.Waiting.Reason != "":
		return " (" + status.State.Waiting.Reason + ")"
	case status.State.Terminated != nil && status.State.Terminated.Reason != "":
		return " (" + status.State.Terminated.Reason + ")"
	}
	return ""
}

// portForward opens connections to ports of a pod.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod, ok := s.pod(w, r)
	if !ok {
		return
	}
	sandbox, err := s.sandbox(r.Context(), pod)
	if err != nil {
		_ = streaming.WriteError(err, w)
		return
	}
	if sandbox == "" {
		http.Error(w, fmt.Sprintf("pod %q is not running", pod.Name), http.StatusBadRequest)
		return
	}
	answer, err := s.config.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: sandbox, Port: options.Ports})
	if err != nil {
		_ = streaming.WriteError(err, w)
		return
	}
	pass(w, r, answer.GetUrl())
}

// sandbox returns the id of the pod's living sandbox; empty when there is none.
func (s *Server) sandbox(ctx context.Context, pod *corev1.Pod) (string, error) {
	answer, err := s.config.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{kubelettypes.KubernetesPodUIDLabel: string(pod.UID)},
	}})
	if err != nil || len(answer.GetItems()) == 0 {
		return "", err
	}
	return answer.Items[0].Id, nil
}

// pass proxies the request to the runtime's streaming server. Only upgrades are passed: what the runtime
// serves there are streams. WebSockets have been translated to SPDY by the API server.
func pass(w http.ResponseWriter, r *http.Request, target string) {
	location, err := url.Parse(target)
	if err != nil || location.Host == "" {
		http.Error(w, "the container runtime gave no address to stream from", http.StatusInternalServerError)
		return
	}
	proxy.NewUpgradeAwareHandler(location, nil, false, true, responder{}).ServeHTTP(w, r)
}

// responder answers when the runtime's streaming server cannot be used.
type responder struct{}

// Error logs and answers err.
func (responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	logr.FromContextOrDiscard(r.Context()).Info("could not stream from the container runtime", "path", r.URL.Path, "reason", err.Error())
	http.Error(w, fmt.Sprintf("streaming from the container runtime: %v", err), http.StatusInternalServerError)
}
