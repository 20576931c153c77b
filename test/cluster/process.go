package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one component of a cluster. It is started, stopped, killed and started again at will; its
// output goes to one log file.
type Process struct {
	// Name is the component's name in the cluster, such as "manager" or "n1/agent".
	Name string
	// Log is the file that its output goes to.
	Log string

	argv []string
	// enter moves the thread that forks into namespaces, and flags make new ones for the child.
	enter func() error
	flags uintptr

	mutex sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// NewProcess returns a process that Start starts, for suites that assemble clusters of their own.
func NewProcess(name, log string, argv ...string) *Process {
	return &Process{Name: name, Log: log, argv: argv}
}

// Start starts the process. It must not be running.
func (p *Process) Start() error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.running() {
		return fmt.Errorf("starting %s: it runs already", p.Name)
	}
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: p.flags}
	if p.enter == nil || p.flags != 0 {
		// Should the test process be killed, its clusters go with it; what is in a machine goes with that.
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		// The parent-death signal is bound to the thread that forks: it must outlive the child.
		runtime.LockOSThread()
		if p.enter == nil {
			defer runtime.UnlockOSThread()
		} else if err := p.enter(); err != nil {
			// The thread is in other namespaces: it ends with this function.
			started <- err
			return
		}
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = cmd.Wait()
		close(ended)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	p.cmd, p.ended = cmd, ended
	return nil
}

func (p *Process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Running says whether the process has been started and has not ended.
func (p *Process) Running() bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.running()
}

// PID is the process's number, or 0 when it does not run.
func (p *Process) PID() int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}

// Kill ends the process by SIGKILL and waits for its end.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL, time.Minute) }

// Stop ends the process by SIGTERM, and waits as long as a clean stop may take.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM, 2*time.Minute) }

func (p *Process) end(signal syscall.Signal, patience time.Duration) error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling %s: %w", p.Name, err)
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s did not end within %s of %s", p.Name, patience, signal)
	}
}

// Restart kills the process and starts it again.
func (p *Process) Restart() error {
	return errors.Join(p.Kill(), p.Start())
}

// Tail is the end of the process's log.
func (p *Process) Tail(lines int) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// run executes a command to its end and returns its output; on failure the error carries the output.
func run(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("running %s: %w: %s%s", strings.Join(argv, " "), err, out, stderr.String())
	}
	return string(out), nil
}
