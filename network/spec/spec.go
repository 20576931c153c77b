package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	// MaxSlots bounds the slots of one frontend, and of each of its groups.
	MaxSlots = 1<<14 - 2

	// Shares is what a connection to a frontend with groups is worth: a group gets its share of them.
	Shares = 1000
)

// Key is where clients connect to.
type Key struct {
	Addr netip.Addr
	// Proto is the IP protocol's number (6 for TCP, 17 for UDP).
	Proto uint8
	Port  uint16
	// Inside restricts the frontend to clients on this node: its pods and its own processes. They use it
	// in place of the frontend of the same address that everybody may use.
	Inside bool
}

// String is for people, as in "10.96.0.1:443/6".
func (k Key) String() string {
	text := fmt.Sprintf("%s/%d", netip.AddrPortFrom(k.Addr, k.Port), k.Proto)
	if k.Inside {
		text += " inside"
	}
	return text
}

// Compare orders keys.
func (k Key) Compare(other Key) int {
	return cmp.Or(k.Addr.Compare(other.Addr), cmp.Compare(k.Proto, other.Proto), cmp.Compare(k.Port, other.Port),
		cmp.Compare(number(k.Inside), number(other.Inside)))
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Frontend is what happens to connections to a Key.
type Frontend struct {
	// Slots are chosen among with equal chance. With none, and no Groups, connections are refused.
	Slots []netip.AddrPort
	// Groups take the place of Slots where endpoints get different shares of the connections: a group is
	// chosen first, then a slot within it, so that a group's share is the same however many slots it has.
	Groups []Group
	// Drop leaves connections without an answer where there are no slots: the client tries again, and
	// somebody else may serve it then.
	Drop bool
	// Affinity is how long a client that comes again is sent to the same endpoint, in whole seconds,
	// counted from its last connection; 0 means not at all.
	Affinity time.Duration
	// Masquerade gives the connections one of the node's addresses as source, so that replies come
	// back through the node.
	Masquerade bool
	// Local are the addresses among Slots of pods on this node, sorted: one that reaches itself
	// through the frontend must see another source than itself.
	Local []netip.Addr
	// Sources are the only clients that are served; all others get no answer. With none, all are served.
	// They do not overlap. Those of a frontend with Inside are not looked at: what the frontend that
	// everybody may use says holds for both.
	Sources []netip.Prefix
}

// Group is a part of a frontend's endpoints.
type Group struct {
	// Share is how many of a thousand (Shares) connections go to the group. Those of a frontend's groups
	// add up to Shares.
	Share int
	// Slots are chosen among with equal chance; there is one at least.
	Slots []netip.AddrPort
}

// Equal tells whether two frontends, either of which may be nil, mean the same.
func (f *Frontend) Equal(other *Frontend) bool {
	if f == nil || other == nil {
		return f == other
	}
	return f.Affinity == other.Affinity && f.Masquerade == other.Masquerade && f.Drop == other.Drop &&
		slices.Equal(f.Slots, other.Slots) && slices.Equal(f.Local, other.Local) && slices.Equal(f.Sources, other.Sources) &&
		slices.EqualFunc(f.Groups, other.Groups, func(a, b Group) bool {
			return a.Share == b.Share && slices.Equal(a.Slots, b.Slots)
		})
}

// Endpoints are all slots, of whatever group. f may be nil.
func (f *Frontend) Endpoints() []netip.AddrPort {
	if f == nil {
		return nil
	}
	all := f.Slots
	for _, group := range f.Groups {
		all = append(all[:len(all):len(all)], group.Slots...)
	}
	return all
}

// Changes maps keys to what they should become; nil takes the frontend away.
type Changes map[Key]*Frontend
