package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"drayage.dev/agent/cgroups"
	"drayage.dev/agent/containerd"
	"drayage.dev/network/cni"
	"drayage.dev/network/podnet"
)

// Clean takes everything of a node off the machine, whatever killed its agent: processes, mounts, network,
// cgroups and runtime state. It kills; who wants pods to end gracefully stops the agent with TakeDown. Only
// DataDir, RunDir and CgroupRoot of config are used. It works as often as one likes; the data stays.
func Clean(ctx context.Context, config Config) error {
	if os.Geteuid() != 0 {
		return errors.New("taking a node down needs root; use sudo")
	}
	var failures []error
	tree, err := cgroups.Open(config.CgroupRoot)
	if err != nil {
		return err
	}
	if err := dnsServer(config).Stop(ctx); err != nil {
		failures = append(failures, fmt.Errorf("stopping the DNS server: %w", err))
	}
	// Processes first, the runtime and its shims among them: they would keep mounts busy.
	if err := tree.Destroy(ctx); err != nil {
		failures = append(failures, fmt.Errorf("removing cgroups: %w", err))
	}
	failures = append(failures, containerd.Clean(containerd.Config{
		DataDir: config.agentDir("containerd"), RunDir: containerdRunDir(config),
	}))
	if err := unmountVolumes(config.agentDir("pods")); err != nil {
		failures = append(failures, err)
	}
	if err := podnet.Cleanup(ctx, config.agentDir("network"), ""); err != nil {
		failures = append(failures, fmt.Errorf("cleaning the network: %w", err))
	}
	failures = append(failures, cni.ForgetResults(cni.ResultsDir, config.cniSocket(), func(string) bool { return false }))
	// Of other runtimes' too, so it goes only when it is empty.
	_, _ = unix.Rmdir(cni.ResultsDir), unix.Rmdir(filepath.Dir(cni.ResultsDir))
	// The last: it names what was found. It may hold what others put there.
	_ = os.Remove(config.cniSocket())
	_ = os.Remove(config.RunDir)
	return errors.Join(failures...)
}

// CleanWhenGone waits until no agent runs here, and cleans while none can start. With purge it deletes the
// node's data, too.
func CleanWhenGone(ctx context.Context, config Config, purge bool) error {
	if err := os.MkdirAll(config.agentDir(), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(config.lockFile(), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	err = wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(context.Context) (bool, error) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("waiting for the agent on %s to end: %w", config.DataDir, err)
	}
	if err := Clean(ctx, config); err != nil || !purge {
		return err
	}
	// Nothing is mounted below any more: Clean has said so.
	failures := []error{os.RemoveAll(config.agentDir()), os.RemoveAll(filepath.Join(config.DataDir, "bin")), os.RemoveAll(config.RunDir)}
	// It goes if nobody else keeps anything there.
	_ = os.Remove(config.DataDir)
	return errors.Join(failures...)
}

// unmountVolumes detaches the pods' volumes, the last mounted first. Their contents stay.
func unmountVolumes(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	var failures []error
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil {
			failures = append(failures, fmt.Errorf("unmounting %s: %w", mounts[i].Mountpoint, err))
		}
	}
	return errors.Join(failures...)
}
