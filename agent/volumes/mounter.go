package volumes

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// mounter mounts by system call where upstream's would start a process: a pod has a few mounts, and each
// process costs milliseconds of its start. Everything that only looks is upstream's.
type mounter struct{ mount.Interface }

func newMounter() mounter { return mounter{mount.NewWithoutSystemd("")} }

func (m mounter) Mount(source, target, fstype string, options []string) error {
	var flags uintptr
	var data []string
	for _, option := range options {
		switch option {
		case "bind":
			flags |= unix.MS_BIND
		case "ro":
			flags |= unix.MS_RDONLY
		case "remount":
			flags |= unix.MS_REMOUNT
		default:
			data = append(data, option)
		}
	}
	if err := unix.Mount(source, target, fstype, flags, strings.Join(data, ",")); err != nil {
		return fmt.Errorf("mounting %s %q at %q: %w", fstype, source, target, os.NewSyscallError("mount", err))
	}
	return nil
}

func (m mounter) MountSensitive(source, target, fstype string, options, sensitive []string) error {
	return m.Mount(source, target, fstype, append(append([]string{}, options...), sensitive...))
}

func (m mounter) MountSensitiveWithoutSystemd(source, target, fstype string, options, sensitive []string) error {
	return m.MountSensitive(source, target, fstype, options, sensitive)
}

// MountSensitiveWithoutSystemdWithMountFlags ignores the flags: they speak to mount(8).
func (m mounter) MountSensitiveWithoutSystemdWithMountFlags(source, target, fstype string, options, sensitive, _ []string) error {
	return m.MountSensitive(source, target, fstype, options, sensitive)
}

// Unmount takes the topmost mount off target. A target that is no mount point, or does not exist, is an
// error.
func (m mounter) Unmount(target string) error {
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmounting %q: %w", target, os.NewSyscallError("umount", err))
	}
	return nil
}
