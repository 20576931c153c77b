package pod

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// programs are what the machine may need of the image. An image without container runtime leaves that to the
// machine's own binaries.
var programs = []string{"dray-agent", "dray-cni", "dray-dns", "containerd", "containerd-shim-runc-v2", "runc"}

// install copies the programs that are beside this one to the machine. What runs there keeps the file that
// it was started from; an equal file is left alone.
func install(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, program := range programs {
		source := filepath.Join(filepath.Dir(self), program)
		if program == "dray-agent" {
			source = self
		}
		err := replace(source, filepath.Join(dir, program))
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && program != "dray-agent") {
			return fmt.Errorf("copying %s to the machine: %w", program, err)
		}
	}
	return nil
}

// replace makes target a copy of source, whole or not at all.
func replace(source, target string) error {
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	if equal(from, target) {
		return nil
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	draft := target + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	to, err := os.OpenFile(draft, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	// A machine that loses power right after must not find an empty file under the name.
	if err = errors.Join(err, to.Sync(), to.Close()); err != nil {
		return err
	}
	return os.Rename(draft, target)
}

// equal compares the rest of a file with the file of a name.
func equal(a io.Reader, name string) bool {
	b, err := os.Open(name)
	if err != nil {
		return false
	}
	defer b.Close()
	x, y := make([]byte, 1<<16), make([]byte, 1<<16)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false
		}
		if errA != nil || errB != nil {
			return errA != nil && errB != nil
		}
	}
}
