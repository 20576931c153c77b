package nftables

import (
	"fmt"
	"slices"

	"drayage.dev/network/spec"
)

// Compare looks for what the kernel does not hold of the frontends although it should, and for what it
// holds of them although it should not: a sentence for each frontend. It changes nothing, and may be
// called on a Table that was never synced.
func (t *Table) Compare(frontends map[spec.Key]*spec.Frontend) (sentences []string, err error) {
	is, _, _, whole, err := t.read(count(frontends))
	if err != nil {
		return nil, err
	}
	if !whole {
		return []string{fmt.Sprintf("the nftables table %s is missing, or its chains and sets are not as they should be", t.layout.table.Name)}, nil
	}
	var should elements
	hairpins, encoded := map[spec.Key][]element{}, map[element]spec.Key{}
	for key, f := range frontends {
		if f == nil || !key.Addr.Is4() {
			continue
		}
		should.add(key, f)
		encoded[newElement(plane(key.Inside).index(setServices), appendKey(nil, key), nil)] = key
		for _, address := range f.Local {
			hairpins[key] = append(hairpins[key], hairpinElement(address))
		}
	}
	// of finds the frontend that an element belongs to.
	of := func(e *element) (spec.Key, bool) {
		p := plane(slices.Contains([]string{inside.set(setServices), inside.set(setEndpoints), inside.set(setNames), inside.set(setGroups), inside.set(setSizes)}, e.set.name()))
		key, ok := encoded[newElement(p.index(setServices), e.key[:keyLength], nil)]
		return key, ok
	}
	missing, foreign := map[spec.Key]int{}, map[spec.Key]int{}
	differences(is, should.settle(), func(found, wanted *element) {
		if wanted != nil {
			if key, ok := of(wanted); ok {
				missing[key]++
			}
		} else if key, ok := of(found); ok {
			foreign[key]++
		}
	})
	for key, list := range hairpins {
		for _, e := range list {
			if _, ok := slices.BinarySearchFunc(is, e, func(a, b element) int { return a.compare(&b) }); !ok {
				missing[key]++
			}
		}
	}
	for key := range frontends {
		if n := missing[key]; n > 0 {
			sentences = append(sentences, fmt.Sprintf("of the entries for %s %d are missing or wrong in the nftables table %s", key, n, t.layout.table.Name))
		}
		if n := foreign[key]; n > 0 {
			sentences = append(sentences, fmt.Sprintf("the nftables table %s has %d entries for %s that nobody wants", t.layout.table.Name, n, key))
		}
	}
	slices.Sort(sentences)
	return sentences, nil
}
