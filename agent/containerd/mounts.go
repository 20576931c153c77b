package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
	return os.RemoveAll(config.RunDir)
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
