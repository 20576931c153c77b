package streaming

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/util/flushwriter"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	// The scheme learns to read core/v1's options from a query.
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/apis/core/v1/validation"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
)

// logs answers with the log of a container, to its end or for as long as it runs.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	options := &corev1.PodLogOptions{}
	if err := legacyscheme.ParameterCodec.DecodeParameters(r.URL.Query(), corev1.SchemeGroupVersion, options); err != nil {
		http.Error(w, fmt.Sprintf("reading the query: %v", err), http.StatusBadRequest)
		return
	}
	if options.Stream == nil {
		options.Stream = new(corev1.LogStreamAll)
	}
	if errs := validation.ValidatePodLogOptions(options); len(errs) > 0 {
		http.Error(w, errs.ToAggregate().Error(), http.StatusUnprocessableEntity)
		return
	}
	pod, ok := s.pod(w, r)
	if !ok {
		return
	}
	container := r.PathValue("container")
	if kubecontainer.GetContainerSpec(pod, container) == nil {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", container, pod.Name), http.StatusNotFound)
		return
	}
	id, err := loggedContainer(pod, container, options.Previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path, err := s.logPath(r.Context(), id)
	if err != nil {
		http.Error(w, fmt.Sprintf("finding the log of container %q in pod %q: %v", container, pod.Name, err), http.StatusNotFound)
		return
	}

	w.Header().Set("Content-Type", "text/plain")
	// The header leaves at once: the log of a silent container has no first byte to wait for.
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	stdout, stderr := streams(w, *options.Stream)
	err = logs.ReadLogs(r.Context(), path, id, readOptions(options, time.Now()), statusOnly{Runtime: s.config.Runtime}, stdout, stderr)
	if err != nil && r.Context().Err() == nil {
		// It is too late for a status; this is how kubelet says it as well.
		fmt.Fprintf(w, "reading the log of container %q in pod %q: %v\n", container, pod.Name, err)
	}
}

// streams returns the writers for a container's two streams; one that was not asked for is nil.
func streams(w http.ResponseWriter, wanted string) (stdout, stderr io.Writer) {
	flushing := flushwriter.Wrap(w)
	switch wanted {
	case corev1.LogStreamStdout:
		return flushing, nil
	case corev1.LogStreamStderr:
		return nil, flushing
	default:
		return flushing, flushing
	}
}

func readOptions(o *corev1.PodLogOptions, now time.Time) *logs.LogOptions {
	read := &logs.LogOptions{TailLines: o.TailLines, LimitBytes: o.LimitBytes, Follow: o.Follow, Timestamp: o.Timestamps}
	switch {
	case o.SinceSeconds != nil:
		read.Since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	case o.SinceTime != nil:
		read.Since = o.SinceTime.Time
	}
	return read
}

// loggedContainer returns the id of the container whose log is meant: the running one, else the last that
// ended; with previous, the one before. Its errors are what users of kubectl know.
func loggedContainer(pod *corev1.Pod, name string, previous bool) (string, error) {
	status, ok := containerStatus(pod, name)
	if !ok {
		return "", fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
	}
	state, last := status.State, status.LastTerminationState.Terminated
	candidates := []string{}
	switch {
	case previous:
	case state.Running != nil:
		candidates = append(candidates, status.ContainerID)
	case state.Terminated != nil:
		candidates = append(candidates, state.Terminated.ContainerID)
	}
	if last != nil {
		candidates = append(candidates, last.ContainerID)
	}
	for _, candidate := range candidates {
		if candidate != "" {
			return kubecontainer.ParseContainerID(candidate).ID, nil
		}
	}
	switch {
	case previous:
		return "", fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
	case state.Terminated != nil || last != nil:
		return "", fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
	}
	return "", fmt.Errorf("container %q in pod %q is waiting to start%s", name, pod.Name, waitingFor(state.Waiting))
}

// waitingFor says what a container that has not started waits for.
func waitingFor(waiting *corev1.ContainerStateWaiting) string {
	switch {
	case waiting == nil:
		return " - no logs yet"
	case waiting.Reason == "ErrImagePull":
		return ": image can't be pulled"
	case waiting.Reason == "ImagePullBackOff":
		return ": trying and failing to pull image"
	default:
		return ": " + waiting.Reason
	}
}

// containerStatus finds a container among all of a pod's, whatever their kind.
func containerStatus(pod *corev1.Pod, name string) (corev1.ContainerStatus, bool) {
	for _, statuses := range [][]corev1.ContainerStatus{
		pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		if status, ok := podutil.GetContainerStatus(statuses, name); ok {
			return status, true
		}
	}
	return corev1.ContainerStatus{}, false
}

// logPath asks the runtime where it writes the log of a container.
func (s *Server) logPath(ctx context.Context, id string) (string, error) {
	answer, err := s.config.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return "", err
	}
	if path := answer.GetStatus().GetLogPath(); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("container %s has no log", id)
}

// statusOnly is as much of upstream's client of a runtime as reading a log asks for: following one, it
// looks now and then whether the container still runs.
type statusOnly struct {
	internalapi.RuntimeService
	Runtime runtimeapi.RuntimeServiceClient
}

// ContainerStatus returns the runtime's answer.
func (s statusOnly) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	return s.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
}
