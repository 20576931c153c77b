package probes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/events"
	"k8s.io/kubernetes/pkg/kubelet/util/format"
	"k8s.io/kubernetes/pkg/probe"
	execprobe "k8s.io/kubernetes/pkg/probe/exec"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
	"k8s.io/utils/exec"
)

// tries is how often a probe that could not be carried out is tried before its error counts.
const tries = 3

// prober carries out single probes.
type prober struct {
	config Config
	exec   execprobe.Prober
	http   httpprobe.Prober
	tcp    tcpprobe.Prober
	grpc   grpcprobe.Prober
}

func newProber(config Config) *prober {
	const followNonLocalRedirects = false
	return &prober{
		config: config,
		exec:   execprobe.New(),
		http:   httpprobe.New(followNonLocalRedirects),
		tcp:    tcpprobe.New(),
		grpc:   grpcprobe.New(),
	}
}

// probe carries out a probe and publishes what went wrong, if told to. It returns whether the container
// is healthy; known is false when the probe could not be carried out, which says nothing about that.
func (p *prober) probe(ctx context.Context, kind Kind, spec *corev1.Probe, target *Target, publish bool) (healthy, known bool) {
	var result probe.Result
	var output string
	var err error
	for range tries {
		if result, output, err = p.once(ctx, spec, target); err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return false, false
	}
	event := func(reason, message string) {
		if publish {
			p.config.Event(target.Pod, target.Container, corev1.EventTypeWarning, reason, message)
		}
	}
	switch {
	case err != nil:
		event(events.ContainerUnhealthy, fmt.Sprintf("%s probe errored and resulted in %s state: %s", kind, result, err))
		return false, false
	case result == probe.Success:
		return true, true
	case result == probe.Warning:
		event(events.ContainerProbeWarning, fmt.Sprintf("%s probe warning: %s", kind, output))
		return true, true
	case result == probe.Failure:
		event(events.ContainerUnhealthy, fmt.Sprintf("%s probe failed: %s", kind, output))
	}
	return false, true
}

func (p *prober) once(ctx context.Context, spec *corev1.Probe, target *Target) (probe.Result, string, error) {
	timeout := time.Duration(spec.TimeoutSeconds) * time.Second
	switch {
	case spec.Exec != nil:
		return p.exec.Probe(&command{run: func() ([]byte, error) { return p.inContainer(ctx, spec.Exec.Command, target, timeout) }})
	case spec.HTTPGet != nil:
		request, err := httpprobe.NewRequestForHTTPGetAction(spec.HTTPGet, target.Container, target.PodIP, "probe")
		if err != nil {
			return probe.Unknown, "", err
		}
		return p.http.Probe(request.WithContext(ctx), timeout)
	case spec.TCPSocket != nil:
		port, err := probe.ResolveContainerPort(spec.TCPSocket.Port, target.Container)
		if err != nil {
			return probe.Unknown, "", err
		}
		host := spec.TCPSocket.Host
		if host == "" {
			host = target.PodIP
		}
		return p.tcp.Probe(host, port, timeout)
	case spec.GRPC != nil:
		service := ""
		if spec.GRPC.Service != nil {
			service = *spec.GRPC.Service
		}
		return p.grpc.Probe(target.PodIP, service, int(spec.GRPC.Port), timeout)
	default:
		return probe.Unknown, "", fmt.Errorf("missing probe handler for %s:%s", format.Pod(target.Pod), target.Container.Name)
	}
}

// inContainer runs the probe's command. Its references are expanded with what the manifest says, not with
// what the container's environment came to be.
func (p *prober) inContainer(ctx context.Context, words []string, target *Target, timeout time.Duration) ([]byte, error) {
	static := map[string]string{}
	for _, variable := range target.Container.Env {
		static[variable.Name] = variable.Value
	}
	expanded := make([]string, 0, len(words))
	for _, word := range words {
		expanded = append(expanded, expansion.Expand(word, expansion.MappingFuncFor(static)))
	}
	output, code, err := p.config.Exec(ctx, target.ContainerID, expanded, timeout)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		// A command that hangs is unhealthy, as one that fails is. Upstream's prober takes exit codes
		// for failures and prints what was written.
		text := fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(expanded, " "), timeout)
		return []byte(text), exec.CodeExitError{Err: errors.New(text), Code: 124}
	case err != nil:
		return output, err
	case code != 0:
		return output, exec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return output, nil
}

// command is as much of an exec.Cmd as upstream's prober uses.
type command struct {
	exec.Cmd
	run    func() ([]byte, error)
	output io.Writer
}

func (c *command) SetStdout(w io.Writer) { c.output = w }
func (c *command) SetStderr(w io.Writer) { c.output = w }
func (c *command) Wait() error           { return nil }

// Start runs the command to its end. Upstream's writer takes the first ten kilobytes of the output; the
// rest may be lost.
func (c *command) Start() error {
	output, err := c.run()
	_, _ = c.output.Write(output)
	return err
}
