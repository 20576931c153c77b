package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
)

// RemovePod kills every process of the pod's groups and removes the groups. It returns nil when there is
// none.
func (t *Tree) RemovePod(ctx context.Context, pod types.UID) error {
	for _, path := range t.podPaths(pod) {
		if err := t.remove(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// Destroy kills everything below the root and removes the tree.
func (t *Tree) Destroy(ctx context.Context) error { return t.remove(ctx, t.root) }

// Pods returns the UIDs of the pods that have a group.
func (t *Tree) Pods() []types.UID {
	seen := map[types.UID]bool{}
	var pods []types.UID
	for _, point := range t.mounts() {
		for _, class := range []string{"", "burstable", "besteffort"} {
			entries, err := os.ReadDir(filepath.Join(point, t.root, class))
			if err != nil {
				continue
			}
			for _, entry := range entries {
				uid, isPod := strings.CutPrefix(entry.Name(), "pod")
				if isPod && entry.IsDir() && !seen[types.UID(uid)] {
					seen[types.UID(uid)] = true
					pods = append(pods, types.UID(uid))
				}
			}
		}
	}
	return pods
}

// remove kills and removes in turns, since a process may fork, and since a group can be removed only
// when its last process has been reaped.
func (t *Tree) remove(ctx context.Context, path string) error {
	var left []int
	var last error
	err := wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		left = t.Processes(path)
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if len(left) > 0 {
			return false, nil
		}
		last = t.removeDirs(path)
		return last == nil, nil
	})
	switch {
	case err == nil:
		return nil
	case len(left) > 0:
		return fmt.Errorf("killing processes %v of cgroup %s: %w", left, path, err)
	}
	return errors.Join(last, err)
}

// Processes returns the processes in the group at path and below it, in any hierarchy.
func (t *Tree) Processes(path string) []int {
	seen := map[int]bool{}
	var pids []int
	for _, point := range t.mounts() {
		_ = filepath.WalkDir(filepath.Join(point, path), func(dir string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return nil
			}
			data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for line := range strings.FieldsSeq(string(data)) {
				// A process outside our pid namespace reads as 0; signalling 0 would mean ourselves.
				if pid, err := strconv.Atoi(line); err == nil && pid > 1 && !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}

func (t *Tree) removeDirs(path string) error {
	for _, point := range t.mounts() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(point, path), func(dir string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, dir)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := unix.Rmdir(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing cgroup %s: %w", dirs[i], err)
			}
		}
	}
	return nil
}
