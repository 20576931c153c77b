package nftables

import (
	"fmt"
	"net/netip"
	"slices"

	"drayage.dev/network/spec"
)

// Compare looks for what the kernel does not hold of the frontends although it should, and for what it
// holds of them although it should not: a sentence for each frontend. It changes nothing, and may be
// called on a Table that was never synced.
func (t *Table) Compare(frontends map[spec.Key]*spec.Frontend) (differences []string, err error) {
	is, _, whole, err := t.read()
	if err != nil {
		return nil, err
	}
	if !whole {
		return []string{fmt.Sprintf("the nftables table %s is missing, or its chains and sets are not as they should be", t.layout.table.Name)}, nil
	}
	should, hairpins := elements{}, map[spec.Key][]element{}
	prefixes := map[string]spec.Key{}
	for key, f := range frontends {
		if f == nil || !key.Addr.Is4() {
			continue
		}
		should.add(key, f)
		prefixes[string(appendKey(nil, key))+fmt.Sprint(key.Inside)] = key
		for _, address := range f.Local {
			hairpins[key] = append(hairpins[key], hairpinElement(address))
		}
	}
	// of finds the frontend that an element belongs to.
	of := func(e element) (spec.Key, bool) {
		if len(e.key) < keyLength {
			return spec.Key{}, false
		}
		p := plane(slices.Contains([]string{inside.set(setServices), inside.set(setEndpoints), inside.set(setNames), inside.set(setGroups), inside.set(setSizes)}, e.set))
		key, ok := prefixes[e.key[:keyLength]+fmt.Sprint(bool(p))]
		return key, ok
	}
	missing, foreign := map[spec.Key]int{}, map[spec.Key]int{}
	for e, value := range should {
		if found, ok := is[e]; !ok || found != value {
			if key, ok := of(e); ok {
				missing[key]++
			}
		}
	}
	for e := range is {
		if _, wanted := should[e]; !wanted {
			if key, ok := of(e); ok {
				foreign[key]++
			}
		}
	}
	for key, list := range hairpins {
		for _, e := range list {
			if _, ok := is[e]; !ok {
				missing[key]++
			}
		}
	}
	for key := range frontends {
		if n := missing[key]; n > 0 {
			differences = append(differences, fmt.Sprintf("of the entries for %s %d are missing or wrong in the nftables table %s", key, n, t.layout.table.Name))
		}
		if n := foreign[key]; n > 0 {
			differences = append(differences, fmt.Sprintf("the nftables table %s has %d entries for %s that nobody wants", t.layout.table.Name, n, key))
		}
	}
	slices.Sort(differences)
	return differences, nil
}

// keyLength is that of an encoded key, in bytes.
var keyLength = len(appendKey(nil, spec.Key{Addr: netip.IPv4Unspecified()}))
