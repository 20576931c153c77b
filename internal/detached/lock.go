package detached

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Lock holds the file for the life of the calling process, or until release is called; the kernel gives
// it back however the process ends. Nothing else in the process may open the file. It fails when another
// process holds it.
func Lock(path string) (release func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(file.Fd(), unix.F_SETLK, &lock); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("locking %s, is another process running? %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}

// holder returns the number of the process that holds the file, 0 when none does.
func holder(path string) int {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer file.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(file.Fd(), unix.F_GETLK, &lock); err != nil || lock.Type == unix.F_UNLCK {
		return 0
	}
	return int(lock.Pid)
}
