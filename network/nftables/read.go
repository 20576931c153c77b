package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

const (
	// readPatience bounds the wait for a set that the kernel rearranges. A hundred thousand elements take it some
	// ten milliseconds where it gets a processor.
	readPatience = 5 * time.Second
	// The set is read again after minPause, then after twice as long each time up to maxPause.
	minPause, maxPause = 2 * time.Millisecond, 200 * time.Millisecond
	// unsteadyReads is how often a ruleset that others change meanwhile is read; after that it is taken as it
	// is, and Touched tells of the change.
	unsteadyReads = 4
)

// errRearranging says that the kernel was moving a set's elements to a larger or smaller hash table when it listed
// them. Such a listing may show elements twice, and as it goes on with each part from the number that the one before
// had come to, it leaves out as many as it showed twice, at most. The generation does not tell.
var errRearranging = errors.New("the kernel goes on rearranging the set")

// read returns the elements, settled, and shapes that the kernel holds, and the generation before that was read;
// expected is how many elements that may be. whole is false when the table is not there or is not of this layout:
// then it has to be built anew.
func (t *Table) read(expected int) (is elements, shapes []shape, generation uint32, whole bool, err error) {
	deadline, pause := time.Now().Add(readPatience), minPause
	for reads := 1; ; reads++ {
		generation, err = t.readGeneration()
		if err != nil {
			return nil, nil, 0, false, err
		}
		is, shapes, whole, err = t.readOnce(expected)
		switch {
		case errors.Is(err, errRearranging), errors.Is(err, kernel.ErrInterrupted):
			if time.Now().After(deadline) {
				return nil, nil, 0, false, err
			}
		case err != nil:
			return nil, nil, 0, false, err
		default:
			now, err := t.readGeneration()
			if err != nil || now == generation || reads >= unsteadyReads {
				return is, shapes, generation, whole, err
			}
		}
		time.Sleep(pause)
		pause = min(2*pause, maxPause)
	}
}

// readOnce is read, of a ruleset that may change meanwhile.
func (t *Table) readOnce(expected int) (is elements, shapes []shape, whole bool, err error) {
	chains, err := kernel.CountRules(t.ns, t.layout.table)
	if err != nil || len(chains) == 0 {
		return nil, nil, false, err
	}
	for name := range t.layout.chains {
		if count, ok := chains[name]; !ok || count != t.layout.ruleCount(name) {
			return nil, nil, false, nil
		}
		delete(chains, name)
	}
	sets, err := t.conn.GetSets(t.layout.table)
	if err != nil {
		return nil, nil, false, fmt.Errorf("listing sets: %w", err)
	}
	if len(sets) != len(t.layout.sets) {
		return nil, nil, false, nil
	}
	is = make(elements, 0, expected)
	for _, found := range sets {
		set := t.layout.sets[found.Name]
		if set == nil || set.IsMap != found.IsMap {
			return nil, nil, false, nil
		}
		if set.HasTimeout {
			continue // clients' visits
		}
		index, fits := indexOf(set.Name), true
		keyLength, valueLength := t.layout.lengths(set.Name)
		err := t.readElements(set.Name, func(key, value []byte) {
			if set.DataType.Name == nftables.TypeVerdict.Name {
				shapes = append(shapes, shapeOfCode(set.Name, binary.NativeEndian.Uint32(key)))
				return
			}
			if len(key) != keyLength || len(value) != valueLength {
				fits = false
				return
			}
			is.enter(index, key, value...)
		})
		if err != nil {
			return nil, nil, false, fmt.Errorf("reading set %s: %w", set.Name, err)
		}
		if !fits {
			return nil, nil, false, nil
		}
	}
	listed := len(is) + len(shapes)
	is, shapes = is.settle(), settleShapes(shapes)
	if len(is)+len(shapes) < listed {
		return nil, nil, false, errRearranging
	}
	// What is left of the chains are the shapes', each with its rules.
	if len(chains) != len(shapes) || slices.ContainsFunc(shapes, func(sh shape) bool {
		count, ok := chains[sh.chain()]
		return !ok || count != len(sh.rules())
	}) {
		return nil, nil, false, nil
	}
	return is, shapes, true, nil
}

// setElemKeyEnd is NFTA_SET_ELEM_KEY_END (Linux 5.6), which x/sys/unix lacks.
const setElemKeyEnd = 10

// readElements calls each with the key (of an interval: its first and its last) and value (empty in plain sets and for verdicts) of every element.
func (t *Table) readElements(set string, each func(key, value []byte)) error {
	request := append(kernel.StringAttribute(unix.NFTA_SET_ELEM_LIST_TABLE, t.layout.table.Name),
		kernel.StringAttribute(unix.NFTA_SET_ELEM_LIST_SET, set)...)
	return t.ns.DumpNFTables(unix.NFT_MSG_GETSETELEM, byte(t.layout.table.Family), request, func(message []byte) error {
		var errs []error
		inside := func(b []byte, each func(kind uint16, content []byte)) {
			if err := kernel.Attributes(b, each); err != nil {
				errs = append(errs, err)
			}
		}
		inside(message, func(kind uint16, list []byte) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return
			}
			inside(list, func(_ uint16, item []byte) {
				var key, end, value []byte
				inside(item, func(kind uint16, data []byte) {
					inside(data, func(inner uint16, content []byte) {
						switch {
						case kind == unix.NFTA_SET_ELEM_KEY && inner == unix.NFTA_DATA_VALUE:
							key = content
						case kind == setElemKeyEnd && inner == unix.NFTA_DATA_VALUE:
							end = content
						case kind == unix.NFTA_SET_ELEM_DATA && inner == unix.NFTA_DATA_VALUE:
							value = content
						}
					})
				})
				each(append(key[:len(key):len(key)], end...), value)
			})
		})
		return errors.Join(errs...)
	})
}

// readGeneration asks the kernel for the number that every commit to any table raises.
func (t *Table) readGeneration() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: t.ns.FD()})
	if err != nil {
		return 0, fmt.Errorf("opening netlink: %w", err)
	}
	defer conn.Close()
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: netlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, fmt.Errorf("reading the ruleset's generation: %w", err)
	}
	for _, reply := range replies {
		attributes, err := netlink.NewAttributeDecoder(reply.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("reading the ruleset's generation: %w", err)
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), nil
			}
		}
	}
	return 0, errors.New("reading the ruleset's generation: the kernel gave none")
}
