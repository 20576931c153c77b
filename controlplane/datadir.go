package controlplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// FormatVersion is the version of what a data directory holds, in its file `version`. A program reads
// directories of its own version only; a later one that reads an older one too will convert it.
const FormatVersion = "1"

// openDataDir checks that a data directory is one that this program understands and that no other process
// uses, prepares a new one, and returns what gives it back. The lock ends with the process in any case.
func openDataDir(config *Config) (release func(), err error) {
	if err := os.MkdirAll(config.serverDir(), 0o700); err != nil {
		return nil, fmt.Errorf("preparing the data directory %s: %w: run as root, or name another with --data-dir", config.DataDir, err)
	}
	lock, err := os.OpenFile(config.serverDir("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("locking the data directory %s: another control plane runs from it: stop that, or name another with --data-dir", config.DataDir)
	}
	release = func() { _ = lock.Close() }
	if err := CheckVersion(config.DataDir); err != nil {
		release()
		return nil, err
	}
	config.identity, err = readOrCreate(config.serverDir("id"), func() string { return string(uuid.NewUUID()) })
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// CheckVersion refuses a data directory of another version, and marks a new one with this program's.
func CheckVersion(dataDir string) error {
	version, err := readOrCreate(filepath.Join(dataDir, "version"), func() string { return FormatVersion })
	if err != nil {
		return err
	}
	if version != FormatVersion {
		return fmt.Errorf("opening the data directory %s: it has format %q and this program needs %q: use the program that made it, or name another with --data-dir", dataDir, version, FormatVersion)
	}
	return nil
}

// readOrCreate returns the line in a file, which it writes first where there is none.
func readOrCreate(path string, create func() string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil && len(data) > 0 {
		return strings.TrimSpace(string(data)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	value := create()
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte(value+"\n"), 0o600); err != nil {
		return "", err
	}
	return value, os.Rename(temp, path)
}
