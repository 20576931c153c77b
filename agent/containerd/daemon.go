package containerd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"drayage.dev/agent/metrics"
	"drayage.dev/internal/detached"
)

// minimumVersion is the oldest containerd that speaks version 1 of the container runtime interface.
const minimumVersion = "1.6.0"

// Daemon is one private containerd.
type Daemon struct {
	config Config
}

// New checks that the binaries are there and new enough and returns the daemon that lives in the
// configured directories, whether it runs or not.
func New(config Config) (*Daemon, error) {
	if err := config.resolve(); err != nil {
		return nil, err
	}
	version, err := config.version()
	if err != nil {
		return nil, err
	}
	parsed, err := utilversion.ParseGeneric(version)
	if err != nil {
		return nil, fmt.Errorf("reading the version of %s: %w", config.Binary, err)
	}
	if parsed.LessThan(utilversion.MustParseGeneric(minimumVersion)) {
		return nil, fmt.Errorf("containerd %s is too old, %s or newer is needed; %s", version, minimumVersion, packages)
	}
	return &Daemon{config: config}, nil
}

// Socket is where the daemon listens, once it is ready.
func (d *Daemon) Socket() string { return d.config.Socket() }

// Run starts the daemon, or finds the one that an earlier agent started, and keeps one running until ctx
// ends. The daemon goes on when Run returns.
func (d *Daemon) Run(ctx context.Context) error {
	if err := d.config.write(); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	return d.process().Keep(ctx)
}

func (d *Daemon) process() detached.Process {
	return detached.Process{
		Name:    "containerd",
		Command: append(slices.Clone(d.config.Launcher), d.config.Binary, "--config", d.config.configFile()),
		PIDFile: d.config.pidFile(), Mark: d.config.configFile(), Dir: d.config.DataDir, LogFile: d.config.logFile(),
		Started: func(pid int) error {
			if d.config.Cgroups == nil {
				return nil
			}
			return d.config.Cgroups.Place(d.config.Cgroup, pid)
		},
	}
}

// Connect returns a connection to the daemon; it is made when it is used first, and again when it breaks.
func (d *Daemon) Connect() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+d.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(metrics.RuntimeCalls), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

// Ready waits until the daemon's container runtime interface answers and the sandbox image is in its
// store. It returns the runtime's name and version, such as "containerd" and "1.6.20".
func (d *Daemon) Ready(ctx context.Context, conn *grpc.ClientConn) (name, version string, err error) {
	client := runtimeapi.NewRuntimeServiceClient(conn)
	last := errors.New("no answer")
	err = wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		answer, err := client.Version(ctx, &runtimeapi.VersionRequest{})
		if err != nil {
			last = err
			return false, nil
		}
		name = answer.RuntimeName
		version, _, _ = strings.Cut(strings.TrimPrefix(answer.RuntimeVersion, "v"), "~")
		return true, nil
	})
	if err != nil {
		return "", "", fmt.Errorf("waiting for containerd (its log is %s): %w", d.config.logFile(), last)
	}
	if d.config.SandboxImage == PauseImage {
		image, err := pauseImage()
		if err != nil {
			return "", "", err
		}
		if err := Import(ctx, conn, PauseImage, image); err != nil {
			return "", "", fmt.Errorf("importing the sandbox image: %w", err)
		}
	}
	return name, version, nil
}

// Stop ends the daemon, whoever started it. It must not be called while Run runs, nor while a container
// does: shims would go on.
func (d *Daemon) Stop(ctx context.Context) error { return d.process().Stop(ctx) }
