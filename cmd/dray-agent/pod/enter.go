package pod

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// enterCommand is the name of the command that Run and `clean --host` start themselves by.
const enterCommand = "host-exec"

// NewEnterCommand returns `dray-agent host-exec`, which runs a program in the machine's mount and cgroup
// namespaces. The program takes the process over, so its number and its parent stay.
func NewEnterCommand() *cobra.Command {
	return &cobra.Command{
		Use: enterCommand + " PROGRAM [ARGUMENT...]", Hidden: true, DisableFlagParsing: true, Args: cobra.MinimumNArgs(1),
		Short: "Run a program in the machine's mount namespace", SilenceUsage: true, SilenceErrors: true,
		RunE: func(_ *cobra.Command, args []string) error { return enter(args) },
	}
}

// enter returns only to tell what failed.
func enter(command []string) error {
	// A thread may change its mount namespace only when it shares its working directory with no other. Exec
	// ends the others and keeps this one's namespaces.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("parting from other threads: %w", err)
	}
	// The mount namespace last: the other's file is found in this one's /proc.
	for _, namespace := range []struct {
		name string
		kind int
	}{{"cgroup", unix.CLONE_NEWCGROUP}, {"mnt", unix.CLONE_NEWNS}} {
		if err := join(namespace.name, namespace.kind); err != nil {
			return fmt.Errorf("entering the machine's %s namespace: %w; the pod needs hostPID and the capabilities SYS_ADMIN, SYS_CHROOT and SYS_PTRACE", namespace.name, err)
		}
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return fmt.Errorf("starting %s: %w", command[0], unix.Exec(command[0], command, os.Environ()))
}

func join(name string, kind int) error {
	fd, err := unix.Open("/proc/1/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Setns(fd, kind), unix.Close(fd))
}
