package kernel

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is the network namespace of a node, held open by a file descriptor.
type Namespace struct {
	handle netns.NsHandle
}

// OpenNamespace opens the network namespace at path; empty means the calling thread's.
func OpenNamespace(path string) (*Namespace, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	handle, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace %s: %w", path, err)
	}
	return &Namespace{handle: handle}, nil
}

// FD is the namespace's file descriptor, valid until Close.
func (n *Namespace) FD() int { return int(n.handle) }

// Close releases the file descriptor; sockets opened through it live on.
func (n *Namespace) Close() error { return n.handle.Close() }

// Netlink opens netlink sockets of the given families in the namespace. The caller closes the handle.
func (n *Namespace) Netlink(families ...int) (*netlink.Handle, error) {
	handle, err := netlink.NewHandleAt(n.handle, families...)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	return handle, nil
}

// Do runs fn on a thread that is in the namespace, which is what files under /proc/sys/net and new
// sockets go by. The thread never serves another goroutine in the wrong namespace: where it cannot be
// moved back it is given up.
func (n *Namespace) Do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		origin, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("opening the thread's network namespace: %w", err)
			return
		}
		defer origin.Close()
		if origin.Equal(n.handle) {
			defer runtime.UnlockOSThread()
			result <- fn()
			return
		}
		if err := netns.Set(n.handle); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("entering network namespace: %w", err)
			return
		}
		err = fn()
		if netns.Set(origin) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// ReadSysctl reads net.<key>, such as "ipv4/conf/all/forwarding", in the calling thread's namespace.
func ReadSysctl(key string) (string, error) {
	value, err := os.ReadFile("/proc/sys/net/" + key)
	if err != nil {
		return "", fmt.Errorf("reading sysctl net/%s: %w", key, err)
	}
	for len(value) > 0 && value[len(value)-1] == '\n' {
		value = value[:len(value)-1]
	}
	return string(value), nil
}

// WriteSysctl writes net.<key> in the calling thread's namespace, unless it has the value already.
func WriteSysctl(key, value string) error {
	if old, err := ReadSysctl(key); err == nil && old == value {
		return nil
	}
	if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644); err != nil {
		return fmt.Errorf("writing sysctl net/%s: %w", key, err)
	}
	return nil
}
