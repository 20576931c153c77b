package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// MaxSlots bounds the slots of one frontend.
const MaxSlots = 1<<14 - 1

// Key is where clients connect to.
type Key struct {
	Addr netip.Addr
	// Proto is the IP protocol's number (6 for TCP, 17 for UDP).
	Proto uint8
	Port  uint16
}

// String is for people, as in "10.96.0.1:443/6".
func (k Key) String() string {
	return fmt.Sprintf("%s/%d", netip.AddrPortFrom(k.Addr, k.Port), k.Proto)
}

// Compare orders keys.
func (k Key) Compare(other Key) int {
	return cmp.Or(k.Addr.Compare(other.Addr), cmp.Compare(k.Proto, other.Proto), cmp.Compare(k.Port, other.Port))
}

// Frontend is what happens to connections to a Key.
type Frontend struct {
	// Slots are chosen among with equal chance; an endpoint that should get more stands there more
	// than once. With none, connections are refused.
	Slots []netip.AddrPort
	// Affinity is how long a client that comes again is sent to the same endpoint, in whole seconds,
	// counted from its last connection; 0 means not at all.
	Affinity time.Duration
	// Masquerade gives the connections one of the node's addresses as source, so that replies come
	// back through the node.
	Masquerade bool
	// Local are the addresses among Slots of pods on this node, sorted: one that reaches itself
	// through the frontend must see another source than itself.
	Local []netip.Addr
}

// Equal tells whether two frontends, either of which may be nil, mean the same.
func (f *Frontend) Equal(other *Frontend) bool {
	if f == nil || other == nil {
		return f == other
	}
	return f.Affinity == other.Affinity && f.Masquerade == other.Masquerade &&
		slices.Equal(f.Slots, other.Slots) && slices.Equal(f.Local, other.Local)
}

// Changes maps keys to what they should become; nil takes the frontend away.
type Changes map[Key]*Frontend
