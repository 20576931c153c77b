package nftables

import (
	"bytes"
	"cmp"
	"iter"
	"net"
	"net/netip"
	"slices"

	"drayage.dev/network/spec"
)

const (
	// keyLength is that of an encoded key of a frontend, in bytes; the longest key is an interval of sources.
	keyLength    = 12
	maxKeyLength = 2 * (keyLength + 4)
	// maxValueLength is that of an endpoint.
	maxValueLength = 8
)

// element is one element of a set, in the kernel's encoding. A node has some hundred thousand of them for ten
// thousand services, so they have no pointers: a list of them is one piece of memory.
type element struct {
	set setIndex
	// key and value are as long as the set's types (see layout.lengths); the rest is 0. The key of an interval
	// is its first and its last address.
	key   [maxKeyLength]byte
	value [maxValueLength]byte
}

func newElement(set setIndex, key, value []byte) element {
	e := element{set: set}
	copy(e.key[:], key)
	copy(e.value[:], value)
	return e
}

func (e *element) compare(other *element) int {
	return cmp.Or(cmp.Compare(e.set, other.set), bytes.Compare(e.key[:], other.key[:]))
}

// elements are those of all sets. What reads them, apart from add, needs them settled.
type elements []element

// settle sorts the elements by set and key, and leaves one of each key.
func (e elements) settle() elements {
	slices.SortFunc(e, func(a, b element) int { return cmp.Or(a.compare(&b), bytes.Compare(a.value[:], b.value[:])) })
	return slices.CompactFunc(e, func(a, b element) bool { return a.compare(&b) == 0 })
}

// every yields all elements of frontends and of what they share, each once.
func every(frontends map[spec.Key]*spec.Frontend, shared sharing) iter.Seq[element] {
	return func(yield func(element) bool) {
		var own elements
		for key, f := range frontends {
			own = own[:0]
			own.add(key, f)
			own = own.settle()
			for _, e := range own {
				if !yield(e) {
					return
				}
			}
		}
		for address := range shared.hairpin {
			if !yield(hairpinElement(address)) {
				return
			}
		}
	}
}

// count is about how many elements the frontends have.
func count(frontends map[spec.Key]*spec.Frontend) int {
	n := 0
	for _, f := range frontends {
		if f == nil {
			continue
		}
		n += 1 + len(f.Slots)
		for _, group := range f.Groups {
			n += 1 + group.Share + len(group.Slots)
		}
	}
	return n
}

// enter adds one element.
func (e *elements) enter(set setIndex, key []byte, value ...byte) {
	*e = append(*e, newElement(set, key, value))
}

// add enters everything that a frontend needs, but for what frontends share (hairpin and shapes).
func (e *elements) add(key spec.Key, f *spec.Frontend) {
	if f == nil {
		return
	}
	s := shapeOf(key, f)
	// What is appended to it is gone with the next append: elements copy.
	frontend := appendKey(make([]byte, 0, maxKeyLength), key)
	e.enter(s.plane.index(setServices), frontend, appendNative(nil, s.code())...)
	if s.plane == everybody {
		e.restrict(frontend, f.Sources)
	}
	if s.slots != weighted {
		e.addSlots(s, frontend, 0, f.Slots)
		return
	}
	groups, sizes := s.plane.index(setGroups), s.plane.index(setSizes)
	share := 0
	for i, group := range f.Groups {
		number := appendNative(nil, uint32(i))
		for range group.Share {
			e.enter(groups, appendNative(frontend, uint32(share)), number...)
			share++
		}
		e.enter(sizes, append(frontend, number...), appendNative(nil, memberShape(i, group).code())...)
		e.addSlots(s, frontend, i, group.Slots)
	}
}

// addSlots enters the endpoints of one group; without groups there is one of number 0.
func (e *elements) addSlots(s shape, frontend []byte, group int, slots []netip.AddrPort) {
	endpoints, names := s.plane.index(setEndpoints), s.plane.index(setNames)
	var endpoint, name []byte
	for i, slot := range slots[:min(len(slots), spec.MaxSlots)] {
		endpoint = appendEndpoint(endpoint[:0], slot)
		number := uint32(group)<<groupBits | uint32(i)
		e.enter(endpoints, appendNative(frontend, number), endpoint...)
		if s.affinity > 0 {
			name = appendNative(name[:0], endpointName(slot))
			e.enter(names, appendNative(frontend, number), name...)
			e.enter(endpoints, append(frontend, name...), endpoint...)
		}
	}
}

// restrict enters the sources that alone may use a frontend.
func (e *elements) restrict(frontend []byte, sources []netip.Prefix) {
	if len(sources) == 0 {
		return
	}
	e.enter(indexOf(setRestricted), frontend)
	for _, prefix := range sources {
		if !prefix.Addr().Is4() {
			continue
		}
		first := appendAddress(frontend, prefix.Masked().Addr())
		e.enter(indexOf(setSources), appendAddress(append(first, frontend...), last4(prefix)))
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
	return newElement(indexOf(setHairpin), appendAddress(appendAddress(nil, address), address), nil)
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

// diff compares what is with what should be, both settled.
func diff(is, should elements) difference {
	var d difference
	differences(is, should, func(found, wanted *element) {
		if found != nil {
			d.remove = append(d.remove, *found)
		}
		if wanted != nil {
			d.insert = append(d.insert, *wanted)
		}
	})
	return d
}

// differences calls each with what is found but not wanted, with what is wanted but not found, and with both
// where the value is another.
func differences(is, should elements, each func(found, wanted *element)) {
	for len(is) > 0 || len(should) > 0 {
		order := -1
		switch {
		case len(is) == 0:
			order = 1
		case len(should) > 0:
			order = is[0].compare(&should[0])
		}
		switch {
		case order < 0:
			each(&is[0], nil)
		case order > 0:
			each(nil, &should[0])
		case is[0].value != should[0].value:
			each(&is[0], &should[0])
		}
		if order <= 0 {
			is = is[1:]
		}
		if order >= 0 {
			should = should[1:]
		}
	}
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
			d.insert = append(d.insert, hairpinElement(address))
		case before && !now:
			d.remove = append(d.remove, hairpinElement(address))
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

// settleShapes sorts the shapes, and leaves each once.
func settleShapes(shapes []shape) []shape {
	sortShapes(shapes)
	return slices.Compact(shapes)
}
