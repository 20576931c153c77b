package detached

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
)

const (
	// maxLogBytes bounds the log; the file is cut when it grows beyond.
	maxLogBytes = 16 << 20
	// restartBackoff is the first wait before a process that died is started again, doubled up to
	// maxRestartBackoff while it keeps dying within a minute.
	restartBackoff    = 200 * time.Millisecond
	maxRestartBackoff = 30 * time.Second
	// stopPatience is how long a process may take to end after SIGTERM.
	stopPatience = 10 * time.Second
)

// Process describes one process.
type Process struct {
	// Name is for messages.
	Name string
	// Command is the program and its arguments.
	Command []string
	// LockFile is a file on which the process holds a Lock for its life; it is found by that. Then it is
	// replaced when its program or arguments are not Command's any more.
	LockFile string
	// PIDFile is for programs that know nothing of locks: their number is written there. Mark is one of
	// the arguments that no other process on the machine has, by which the number is known to be theirs still.
	PIDFile, Mark string
	// Dir is the working directory.
	Dir string
	// LogFile is where its output goes.
	LogFile string
	// Started is called with the number of a new process, to move it to where it belongs (a control
	// group); an error ends it again. nil means that nothing has to be done.
	Started func(pid int) error
}

// Keep starts the process, or finds the one that an earlier agent started, and keeps one running until
// ctx ends. The process goes on when Keep returns. Only that it could not be started at all is an error.
func (p Process) Keep(ctx context.Context) error {
	log := logr.FromContextOrDiscard(ctx).WithName(p.Name)
	backoff := restartBackoff
	for first := true; ctx.Err() == nil; first = false {
		since := time.Now()
		err := p.keepOne(ctx, log)
		if ctx.Err() != nil || err != nil && first {
			return err
		}
		if time.Since(since) > time.Minute {
			backoff = restartBackoff
		}
		if err != nil {
			log.Error(err, p.Name+" could not be kept, trying again", "after", backoff.String())
		} else {
			log.Info(p.Name+" ended, starting it again", "after", backoff.String(), "log", p.LogFile)
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxRestartBackoff)
	}
	return nil
}

// keepOne takes over the process that runs, or starts one, and returns when it has ended, or ctx has.
func (p Process) keepOne(ctx context.Context, log logr.Logger) error {
	pid, found := p.Find()
	if found && p.LockFile != "" && !p.current(pid) {
		log.Info("Replaced "+p.Name+" by a newer one", "pid", pid)
		if err := p.Stop(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		found = false
	}
	if !found {
		var err error
		if pid, err = p.start(); err != nil {
			return err
		}
		log.Info("Started "+p.Name, "pid", pid)
	}
	return p.wait(ctx, pid)
}

// current tells whether the process runs this very program with these arguments.
func (p Process) current(pid int) bool {
	arguments, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || string(arguments) != strings.Join(p.Command, "\x00")+"\x00" {
		return false
	}
	running, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil {
		return false
	}
	wanted, err := os.Stat(p.Command[0])
	return err == nil && os.SameFile(running, wanted)
}

// start launches the process in a session of its own.
func (p Process) start() (int, error) {
	logFile, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer logFile.Close()
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = logFile, logFile, p.Dir
	// NOTIFY_SOCKET would let it speak to systemd in the agent's name.
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting %s: %w", p.Name, err)
	}
	pid := cmd.Process.Pid
	// Reaped by wait, through the number; nobody waits by this handle.
	_ = cmd.Process.Release()
	spare(pid)
	if p.Started != nil {
		err = p.Started(pid)
	}
	if err == nil && p.PIDFile != "" {
		draft := p.PIDFile + ".new"
		if err = os.WriteFile(draft, []byte(strconv.Itoa(pid)+"\n"), 0o644); err == nil {
			err = os.Rename(draft, p.PIDFile)
		}
	}
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return 0, fmt.Errorf("starting %s: %w", p.Name, err)
	}
	return pid, nil
}

// spare takes back from a process that the kernel should kill it first, which an agent that is a pod without
// requests passes on. Without the right to do so, or without a /proc, the process is as its parent is.
func spare(pid int) {
	file := filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj")
	text, err := os.ReadFile(file)
	if score, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil && score > 0 {
		_ = os.WriteFile(file, []byte("0"), 0o644)
	}
}

// Find returns the process that runs, whoever started it.
func (p Process) Find() (pid int, found bool) {
	if p.LockFile != "" {
		pid = holder(p.LockFile)
		return pid, pid != 0
	}
	data, err := os.ReadFile(p.PIDFile)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	arguments, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	// A zombie has no command line.
	return pid, err == nil && strings.Contains(string(arguments), p.Mark)
}

// wait returns when the process has ended, or ctx has.
func (p Process) wait(ctx context.Context, pid int) error {
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watching %s (process %d): %w", p.Name, pid, err)
	}
	defer unix.Close(handle)
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, 250)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watching %s (process %d): %w", p.Name, pid, err)
		}
		if ready > 0 {
			// Reap it if it was our child; another's child is not ours to wait for.
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			return nil
		}
		if info, err := os.Stat(p.LogFile); err == nil && info.Size() > maxLogBytes {
			_ = os.Truncate(p.LogFile, 0)
		}
	}
	return nil
}

// Stop ends the process, whoever started it. It must not be called while Keep runs.
func (p Process) Stop(ctx context.Context) error {
	pid, found := p.Find()
	if !found {
		return nil
	}
	_ = unix.Kill(pid, unix.SIGTERM)
	bounded, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	if err := p.wait(bounded, pid); err != nil {
		return err
	}
	if _, still := p.Find(); still {
		_ = unix.Kill(pid, unix.SIGKILL)
		if err := p.wait(ctx, pid); err != nil {
			return err
		}
	}
	if p.PIDFile != "" {
		return os.Remove(p.PIDFile)
	}
	return nil
}
