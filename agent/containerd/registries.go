package containerd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// linkRegistries makes dir hold, beside its own registries, a link to each of the machine's that it does not have.
// Links to those that are gone go. containerd 1 would take both directories in a row, containerd 2 takes one only.
func linkRegistries(dir, machine string) error {
	if machine == "" || dir == "" {
		return nil
	}
	own, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range own {
		path := filepath.Join(dir, entry.Name())
		if target, err := os.Readlink(path); err != nil || filepath.Dir(target) != filepath.Clean(machine) {
			continue
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	theirs, err := os.ReadDir(machine)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range theirs {
		err := os.Symlink(filepath.Join(machine, entry.Name()), filepath.Join(dir, entry.Name()))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
