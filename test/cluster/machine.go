package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine is what a node's processes run on: a process that is the first of a PID namespace and has a mount
// namespace of its own. Its end is the end of every process of the node, containers too, and of all mounts,
// in one instant; nothing gets to clean up.
type machine struct {
	*Process
}

// boot is the first process. A machine has /run in memory and /var/lib on its disk, which is $1; mounts reach
// no other machine, but containers, as the host's do. Afterwards it collects those who lost their parent.
const boot = `set -e
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount --bind "$1" /var/lib
touch /run/booted
while :; do sleep infinity & wait; done`

// newMachine describes a machine in a network namespace, which is asked for at each start. disk is the
// directory that is its /var/lib.
func newMachine(name, log, disk string, namespace func() *Namespace) *machine {
	m := &machine{NewProcess(name, log, "sh", "-c", boot, "machine", disk)}
	m.flags = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
	m.enter = func() error { return unix.Setns(int(namespace().handle), unix.CLONE_NEWNET) }
	return m
}

// start switches the machine on.
func (m *machine) start(ctx context.Context) error {
	if err := m.Start(); err != nil {
		return err
	}
	return poll(ctx, time.Minute, func() error {
		if !m.Running() {
			return stop{fmt.Errorf("%s has ended: %s", m.Name, m.Tail(5))}
		}
		_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(m.PID()), "root/run/booted"))
		return err
	})
}

// process describes a process of the machine.
func (m *machine) process(name, log string, argv ...string) *Process {
	p := NewProcess(name, log, argv...)
	p.enter = func() error {
		pid := m.PID()
		if pid == 0 {
			return errors.New("its machine is off")
		}
		handle, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		defer unix.Close(handle)
		// Who shares a working directory with other threads may not change the mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		return unix.Setns(handle, unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWPID)
	}
	return p
}

// exec runs a command on the machine.
func (m *machine) exec(ctx context.Context, argv ...string) (string, error) {
	pid := m.PID()
	if pid == 0 {
		return "", fmt.Errorf("running %s: %s is off", argv[0], m.Name)
	}
	return run(ctx, append([]string{"nsenter", "--target", strconv.Itoa(pid), "--net", "--mount", "--pid"}, argv...)...)
}
