package nftables

import (
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
	s := shapeOf(f)
	frontend := appendKey(make([]byte, 0, 20), key)
	e[element{setServices, string(frontend)}] = string(appendNative(nil, s.code()))
	for i, slot := range f.Slots[:s.slots] {
		endpoint := string(appendEndpoint(nil, slot))
		numbered := string(appendNative(frontend, uint32(i)))
		e[element{setEndpoints, numbered}] = endpoint
		if s.affinity > 0 {
			e[element{setNames, numbered}] = string(appendNative(nil, endpointName(slot)))
			e[element{setEndpoints, string(appendNative(frontend, endpointName(slot)))}] = endpoint
		}
	}
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
func (s sharing) change(f *spec.Frontend, by int) {
	if f == nil {
		return
	}
	s.shapes[shapeOf(f)] += by
	for _, address := range f.Local {
		s.hairpin[address] += by
	}
}

// replace counts one frontend out and another in, and enters what thereby begins or ends into d.
func (s sharing) replace(old, next *spec.Frontend, touched *touched) {
	touched.note(s, old)
	touched.note(s, next)
	s.change(old, -1)
	s.change(next, +1)
}

// touched remembers whether what a change touches was in use before it.
type touched struct {
	shapes  map[shape]bool
	hairpin map[netip.Addr]bool
}

func (t *touched) note(s sharing, f *spec.Frontend) {
	if f == nil {
		return
	}
	if _, ok := t.shapes[shapeOf(f)]; !ok {
		t.shapes[shapeOf(f)] = s.shapes[shapeOf(f)] > 0
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
	slices.SortFunc(shapes, func(a, b shape) int { return int(int64(a.code()) - int64(b.code())) })
}
