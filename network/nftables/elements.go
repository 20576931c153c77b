package nftables

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"drayage.dev/network/spec"
)

// element is one element of a set, in the kernel's encoding.
type element struct {
	set, key string
}

// elements maps an element to its value (empty in plain sets).
type elements map[element]string

// add enters everything that a frontend needs, but for what frontends share (hairpin and shapes).
func (e elements) add(key spec.Key, f *spec.Frontend) {
	if f == nil {
		return
	}
	s := shapeOf(key, f)
	frontend := appendKey(make([]byte, 0, 32), key)
	e[element{s.plane.set(setServices), string(frontend)}] = string(appendNative(nil, s.code()))
	if s.plane == everybody {
		e.restrict(frontend, f.Sources)
	}
	if s.slots != weighted {
		e.addSlots(s, frontend, 0, f.Slots)
		return
	}
	share := 0
	for i, group := range f.Groups {
		number := appendNative(nil, uint32(i))
		for range group.Share {
			e[element{s.plane.set(setGroups), string(appendNative(frontend, uint32(share)))}] = string(number)
			share++
		}
		e[element{s.plane.set(setSizes), string(frontend) + string(number)}] = string(appendNative(nil, memberShape(i, group).code()))
		e.addSlots(s, frontend, i, group.Slots)
	}
}

// addSlots enters the endpoints of one group; without groups there is one of number 0.
func (e elements) addSlots(s shape, frontend []byte, group int, slots []netip.AddrPort) {
	for i, slot := range slots[:min(len(slots), spec.MaxSlots)] {
		endpoint := string(appendEndpoint(nil, slot))
		numbered := string(appendNative(frontend, uint32(group)<<groupBits|uint32(i)))
		e[element{s.plane.set(setEndpoints), numbered}] = endpoint
		if s.affinity > 0 {
			e[element{s.plane.set(setNames), numbered}] = string(appendNative(nil, endpointName(slot)))
			e[element{s.plane.set(setEndpoints), string(appendNative(frontend, endpointName(slot)))}] = endpoint
		}
	}
}

// restrict enters the sources that alone may use a frontend. The key of an interval is its first and its
// last address.
func (e elements) restrict(frontend []byte, sources []netip.Prefix) {
	if len(sources) == 0 {
		return
	}
	e[element{setRestricted, string(frontend)}] = ""
	for _, prefix := range sources {
		if !prefix.Addr().Is4() {
			continue
		}
		first := string(appendAddress(frontend, prefix.Masked().Addr()))
		e[element{setSources, first + string(appendAddress(frontend, last4(prefix)))}] = ""
	}
}

// last4 is the last address of an IPv4 prefix.
func last4(prefix netip.Prefix) netip.Addr {
	four := prefix.Masked().Addr().As4()
	for i := range four {
		four[i] |= ^net.CIDRMask(prefix.Bits(), 32)[i]
	}
	return netip.AddrFrom4(four)
}

func hairpinElement(address netip.Addr) element {
	return element{setHairpin, string(appendAddress(appendAddress(nil, address), address))}
}

// difference is what one transaction does to the elements and shapes.
type difference struct {
	remove, insert elements
	// oldShapes go, newShapes come.
	oldShapes, newShapes []shape
}

func (d *difference) empty() bool {
	return len(d.remove)+len(d.insert)+len(d.oldShapes)+len(d.newShapes) == 0
}

// diff compares what is with what should be.
func diff(is, should elements) difference {
	d := difference{remove: elements{}, insert: elements{}}
	for e, value := range is {
		if wanted, ok := should[e]; !ok || wanted != value {
			d.remove[e] = value
		}
	}
	for e, value := range should {
		if found, ok := is[e]; !ok || found != value {
			d.insert[e] = value
		}
	}
	return d
}

// sharing counts the users of what frontends share.
type sharing struct {
	shapes  map[shape]int
	hairpin map[netip.Addr]int
}

func newSharing() sharing {
	return sharing{shapes: map[shape]int{}, hairpin: map[netip.Addr]int{}}
}

// change moves the counts by one frontend, forwards (+1) or backwards (-1).
func (s sharing) change(key spec.Key, f *spec.Frontend, by int) {
	if f == nil {
		return
	}
	for _, shape := range shapesOf(key, f) {
		s.shapes[shape] += by
	}
	for _, address := range f.Local {
		s.hairpin[address] += by
	}
}

// replace counts one frontend out and another in, and enters what thereby begins or ends into d.
func (s sharing) replace(key spec.Key, old, next *spec.Frontend, touched *touched) {
	touched.note(s, key, old)
	touched.note(s, key, next)
	s.change(key, old, -1)
	s.change(key, next, +1)
}

// touched remembers whether what a change touches was in use before it.
type touched struct {
	shapes  map[shape]bool
	hairpin map[netip.Addr]bool
}

func (t *touched) note(s sharing, key spec.Key, f *spec.Frontend) {
	if f == nil {
		return
	}
	for _, shape := range shapesOf(key, f) {
		if _, ok := t.shapes[shape]; !ok {
			t.shapes[shape] = s.shapes[shape] > 0
		}
	}
	for _, address := range f.Local {
		if _, ok := t.hairpin[address]; !ok {
			t.hairpin[address] = s.hairpin[address] > 0
		}
	}
}

// settle enters into d what began or ended, and forgets counts that are down to nothing.
func (t *touched) settle(s sharing, d *difference) {
	for sh, before := range t.shapes {
		switch now := s.shapes[sh] > 0; {
		case now && !before:
			d.newShapes = append(d.newShapes, sh)
		case before && !now:
			d.oldShapes = append(d.oldShapes, sh)
		}
		if s.shapes[sh] == 0 {
			delete(s.shapes, sh)
		}
	}
	for address, before := range t.hairpin {
		switch now := s.hairpin[address] > 0; {
		case now && !before:
			d.insert[hairpinElement(address)] = ""
		case before && !now:
			d.remove[hairpinElement(address)] = ""
		}
		if s.hairpin[address] == 0 {
			delete(s.hairpin, address)
		}
	}
	sortShapes(d.newShapes)
	sortShapes(d.oldShapes)
}

func sortShapes(shapes []shape) {
	slices.SortFunc(shapes, func(a, b shape) int { return cmp.Or(cmp.Compare(a.set(), b.set()), cmp.Compare(a.code(), b.code())) })
}
