package kernel

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// linkPatience is how long AwaitLink waits, and linkPeriod the time between two looks.
	linkPatience = 5 * time.Second
	linkPeriod   = 5 * time.Millisecond
)

// AwaitLink waits until a link that was set up carries packets, at most for linkPatience: a link that takes longer opens
// by itself. The kernel opens the end of a veth that was up first from a worker, which on a busy node comes hundreds
// of milliseconds late, and drops what is sent until then. Kernels that open a link when it is asked for are not
// waited for.
func AwaitLink(handle *netlink.Handle, index int) error {
	for deadline := time.Now().Add(linkPatience); ; time.Sleep(linkPeriod) {
		link, err := handle.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("reading link %d: %w", index, err)
		}
		if link.Attrs().OperState == netlink.OperUp || time.Now().After(deadline) {
			return nil
		}
	}
}

// listAttempts is how often something is listed that changes meanwhile.
const listAttempts = 10

// Listed returns what list does, which lists links, addresses, routes or neighbours. The kernel gives such a list in
// parts, and says so when a link came or went between two of them: then it is listed again, a few times.
func Listed[T any](list func() ([]T, error)) (found []T, err error) {
	for range listAttempts {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
	}
	return nil, err
}
