package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"k8s.io/apimachinery/pkg/types"
)

// Unmount removes every volume of the pod from the node, also those that the API no longer knows of. It
// needs only the UID, leaves the pod's directory itself in place and succeeds when there is nothing.
// No container of the pod may run any more.
func (m *Manager) Unmount(ctx context.Context, pod types.UID) error {
	m.tokens.forget(pod)
	dir := m.podDir(pod)
	// Subpaths are bind mounts of what lies in volumes, so they go first. The markers of finished
	// volumes go before the volumes, so that what is half gone is not taken for ready.
	for _, name := range []string{subpathsDir, pluginsDir, volumesDir} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := removeTree(m.mounter, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("removing the volumes of pod %s: %w", pod, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, hostsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the volumes of pod %s: %w", pod, err)
	}
	return nil
}

// removeTree takes off everything that is mounted in dir, then deletes it. A container may have mounted
// directories of the host into a volume of its pod (Bidirectional propagation): these must be off before
// anything is deleted, or their contents would be deleted too.
func removeTree(mounter mounter, dir string) error {
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(resolved))
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	// The list is in the order of mounting: what lies upon or within another mount comes after it.
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := mounter.Unmount(mounts[i].Mountpoint); err != nil {
			return err
		}
	}
	return os.RemoveAll(resolved)
}

// isMounted tells whether something is mounted exactly at path, which need not exist.
func isMounted(path string) (bool, error) {
	mounted, err := mountinfo.Mounted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return mounted, err
}
