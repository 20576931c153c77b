package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Clean takes away what a daemon that is gone, and its containers, left on the machine under these
// directories: mounts, the runtime's directory, and the results that the network's library keeps in a
// directory of its own. Images and records in DataDir stay.
func Clean(config Config) error {
	for _, dir := range []string{config.RunDir, config.DataDir} {
		if err := unmountBelow(dir); err != nil {
			return err
		}
	}
	if sandboxes, err := os.ReadDir(filepath.Join(config.rootDir(), "io.containerd.grpc.v1.cri", "sandboxes")); err == nil {
		for _, sandbox := range sandboxes {
			results, err := filepath.Glob("/var/lib/cni/results/*-" + sandbox.Name() + "-*")
			if err != nil {
				return err
			}
			for _, result := range results {
				if err := os.Remove(result); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	if err := removeSockets(config.stateDir()); err != nil {
		return err
	}
	return os.RemoveAll(config.RunDir)
}

// shimSocket is where a shim listens: a directory that all containerds of a machine share, by a name that follows
// from the daemon's socket and the container.
var shimSocket = regexp.MustCompile(`unix://(/run/containerd/s/[0-9a-f]{64})`)

// removeSockets deletes the sockets of the shims whose bundles are in the daemon's state. The shims wrote them
// down there: containerd 1 as a line, containerd 2 in JSON.
func removeSockets(stateDir string) error {
	for _, name := range []string{"address", "bootstrap.json"} {
		files, err := filepath.Glob(filepath.Join(stateDir, "io.containerd.runtime.v2.task", Namespace, "*", name))
		if err != nil {
			return err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			if found := shimSocket.FindSubmatch(text); found != nil {
				if err := os.Remove(string(found[1])); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	// These go when nobody else has anything in them.
	_, _ = unix.Rmdir("/run/containerd/s"), unix.Rmdir("/run/containerd")
	return nil
}

// unmountBelow detaches every mount below dir, the last one first.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	var failed []error
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			failed = append(failed, fmt.Errorf("unmounting %s: %w", mounts[i].Mountpoint, err))
		}
	}
	return errors.Join(failed...)
}
