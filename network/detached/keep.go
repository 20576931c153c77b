package detached

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

const (
	// checkInterval is how often Keep looks whether the process lives.
	checkInterval = time.Second
	// A process that ends again is started after a second, then twice as long each time, up to maxDelay.
	minDelay = time.Second
	maxDelay = 30 * time.Second
	// maxLog is the size, in bytes, from which on a log file is begun anew at a start.
	maxLog = 10 << 20
	// stopPatience is how long Stop waits after asking before it kills.
	stopPatience = 5 * time.Second
)

// Config names the process.
type Config struct {
	// Command is the program's absolute path and its arguments. The program has to Lock LockFile.
	Command []string
	// LockFile is held by the process for its life.
	LockFile string
	// LogFile takes the process's output; it is begun anew at a start when it is larger than 10 MiB.
	LogFile string
	// Started is called with a new process's number, to move it to where it belongs (a control group);
	// an error ends the process again. nil means nothing has to be done.
	Started func(pid int) error
	// Log is told of starts and failures; the zero value discards.
	Log logr.Logger
}

// Keep sees to it that the process runs, with the program and arguments that Config names: one of
// another version or with other arguments is replaced. It returns when ctx ends and leaves the process
// running.
func Keep(ctx context.Context, cfg Config) error {
	if len(cfg.Command) == 0 {
		return errors.New("keeping a process: no command")
	}
	delay := minDelay
	for ctx.Err() == nil {
		began := time.Now()
		err := keepOne(ctx, cfg)
		if ctx.Err() != nil {
			return nil
		}
		cfg.Log.Error(err, "A process ended and will be started again", "command", cfg.Command[0], "after", delay)
		if time.Since(began) > maxDelay {
			delay = minDelay
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, maxDelay)
	}
	return nil
}

// keepOne takes over the process that runs, or starts one, and returns when it has ended, or with ctx.
func keepOne(ctx context.Context, cfg Config) error {
	pid, err := Holder(cfg.LockFile)
	if err != nil {
		return err
	}
	if pid != 0 && !runs(pid, cfg.Command) {
		cfg.Log.Info("Replaces a process by a newer one", "pid", pid, "command", cfg.Command[0])
		if err := Stop(ctx, cfg.LockFile); err != nil {
			return err
		}
		pid = 0
	}
	if pid == 0 {
		return start(ctx, cfg)
	}
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if now, err := Holder(cfg.LockFile); err != nil || now != pid {
			return errors.Join(fmt.Errorf("process %d is gone", pid), err)
		}
	}
}

// runs tells whether the process runs this very program with these arguments.
func runs(pid int, command []string) bool {
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || string(arguments) != strings.Join(command, "\x00")+"\x00" {
		return false
	}
	running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	wanted, err := os.Stat(command[0])
	return err == nil && os.SameFile(running, wanted)
}

// start runs the program in a session of its own and waits for its end.
func start(ctx context.Context, cfg Config) error {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(cfg.LogFile); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	log, err := os.OpenFile(cfg.LogFile, flags, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", cfg.Command[0], err)
	}
	defer log.Close()
	process := exec.Command(cfg.Command[0], cfg.Command[1:]...)
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := process.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", cfg.Command[0], err)
	}
	ended := make(chan error, 1)
	// Ends with the process; if this one ends first, the process's next parent collects it.
	go func() { ended <- process.Wait() }()
	cfg.Log.Info("Started a process", "command", cfg.Command[0], "pid", process.Process.Pid)
	if cfg.Started != nil {
		if err := cfg.Started(process.Process.Pid); err != nil {
			_ = process.Process.Kill()
			cfg.Log.V(1).Info("Ended a process that could not be placed", "command", cfg.Command[0], "result", <-ended)
			return fmt.Errorf("placing %s: %w", cfg.Command[0], err)
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return fmt.Errorf("%s ended, see %s: %w", cfg.Command[0], cfg.LogFile, errors.Join(errors.New("it should not"), err))
	}
}

// Stop ends whatever process holds the lock file: it asks, waits for five seconds, and kills. It returns
// nil when there is none.
func Stop(ctx context.Context, lockFile string) error {
	signal, killAt := unix.SIGTERM, time.Now().Add(stopPatience)
	for {
		pid, err := Holder(lockFile)
		if err != nil || pid == 0 {
			return err
		}
		if time.Now().After(killAt) {
			signal = unix.SIGKILL
		}
		if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending process %d: %w", pid, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
