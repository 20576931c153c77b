package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// minimumVersion is the oldest containerd that speaks version 1 of the container runtime interface.
	minimumVersion = "1.6.0"
	// maxLogBytes bounds the daemon's log; the file is cut when it grows beyond.
	maxLogBytes = 16 << 20
	// restartBackoff is the first wait before a daemon that died is started again, doubled up to
	// maxRestartBackoff while it keeps dying within a minute.
	restartBackoff    = 200 * time.Millisecond
	maxRestartBackoff = 30 * time.Second
)

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
	log := logr.FromContextOrDiscard(ctx).WithName("containerd")
	if err := d.config.write(); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	backoff := restartBackoff
	for ctx.Err() == nil {
		pid, found := d.find()
		if !found {
			var err error
			if pid, err = d.start(); err != nil {
				return err
			}
			log.Info("Started containerd", "pid", pid)
		}
		since := time.Now()
		if err := d.watch(ctx, pid); err != nil || ctx.Err() != nil {
			return err
		}
		if time.Since(since) > time.Minute {
			backoff = restartBackoff
		}
		log.Info("containerd ended, starting it again", "pid", pid, "after", backoff.String())
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxRestartBackoff)
	}
	return nil
}

// start launches the daemon in a session and a cgroup of its own.
func (d *Daemon) start() (int, error) {
	logFile, err := os.OpenFile(d.config.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return 0, err
	}
	defer logFile.Close()
	command := append(append([]string{}, d.config.Launcher...), d.config.Binary, "--config", d.config.configFile())
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Dir = d.config.DataDir
	// NOTIFY_SOCKET would let it speak to systemd in the agent's name.
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting containerd: %w", err)
	}
	pid := cmd.Process.Pid
	// Reaped by watch, through the pid; without this the runtime would keep a handle of its own.
	_ = cmd.Process.Release()
	if tree := d.config.Cgroups; tree != nil {
		err = tree.Create(d.config.Cgroup)
		if err == nil {
			err = tree.Enter(d.config.Cgroup, pid)
		}
	}
	if err == nil {
		err = replaceFile(d.config.pidFile(), []byte(strconv.Itoa(pid)+"\n"))
	}
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return 0, fmt.Errorf("starting containerd: %w", err)
	}
	return pid, nil
}

// find returns the daemon of the pid file, if that process is our containerd still and no other that was
// given its number since.
func (d *Daemon) find() (int, bool) {
	data, err := os.ReadFile(d.config.pidFile())
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	arguments, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	// A zombie has no command line.
	return pid, err == nil && strings.Contains(string(arguments), d.config.configFile())
}

// watch returns when the process has ended, or ctx has.
func (d *Daemon) watch(ctx context.Context, pid int) error {
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watching containerd (process %d): %w", pid, err)
	}
	defer unix.Close(handle)
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, 250)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watching containerd (process %d): %w", pid, err)
		}
		if ready > 0 {
			// Reap it if it was our child; another's child is not ours to wait for.
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			return nil
		}
		if info, err := os.Stat(d.config.logFile()); err == nil && info.Size() > maxLogBytes {
			_ = os.Truncate(d.config.logFile(), 0)
		}
	}
	return nil
}

// Connect returns a connection to the daemon; it is made when it is used first, and again when it breaks.
func (d *Daemon) Connect() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+d.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
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

// Stop ends the daemon, whoever started it, and takes away its mounts and its runtime state. It must not
// be called while Run runs, nor while a container does: shims would go on.
func (d *Daemon) Stop(ctx context.Context) error {
	if pid, found := d.find(); found {
		_ = unix.Kill(pid, unix.SIGTERM)
		bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := d.watch(bounded, pid)
		cancel()
		if _, still := d.find(); still && err == nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			err = d.watch(ctx, pid)
		}
		if err != nil {
			return err
		}
	}
	if err := unmountBelow(d.config.RunDir); err != nil {
		return err
	}
	return os.RemoveAll(d.config.RunDir)
}
