package nftables

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	vishnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
	"drayage.dev/network/spec"
)

const (
	// chunk is how many elements go into one message: an attribute holds 64 KiB, an element takes
	// some 60 bytes.
	chunk = 800

	// atOnce is how many messages fill sets that nobody uses yet in one transaction.
	atOnce = 8

	// sendBuffer holds the largest transaction: ten thousand services with ten endpoints each are 6 MB.
	sendBuffer = 128 << 20
)

// Table is the service table in a node's kernel. It is not safe for use from several goroutines.
type Table struct {
	ns        *kernel.Namespace
	layout    *layout
	conn      *nftables.Conn
	conntrack *vishnetlink.Handle

	// applied is what the kernel holds as far as is known.
	applied map[spec.Key]*spec.Frontend
	shared  sharing
	// unanswered are the TCP frontends whose endpoints have changed since Forget.
	unanswered map[netip.AddrPort]struct{}
	// generation is the ruleset's after our last look or write.
	generation uint32
}

// New opens the node's table; path names the network namespace, empty means the calling thread's. It
// changes nothing in the kernel: Sync comes first. Close ends it.
func New(path string) (*Table, error) {
	ns, err := kernel.OpenNamespace(path)
	if err != nil {
		return nil, err
	}
	conntrack, err := ns.Netlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	t := &Table{
		ns: ns, layout: newLayout(), conntrack: conntrack,
		applied: map[spec.Key]*spec.Frontend{}, shared: newSharing(),
		unanswered: map[netip.AddrPort]struct{}{},
	}
	if err := t.reopen(); err != nil {
		conntrack.Close()
		return nil, errors.Join(err, ns.Close())
	}
	return t, nil
}

// Close releases the sockets. The rules stay and go on working.
func (t *Table) Close() error {
	t.conntrack.Close()
	return errors.Join(t.conn.CloseLasting(), t.ns.Close())
}

func (t *Table) reopen() error {
	if t.conn != nil {
		_ = t.conn.CloseLasting()
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(t.ns.FD()),
		nftables.WithSockOptions(func(c *netlink.Conn) error {
			return errors.Join(c.SetWriteBuffer(sendBuffer), c.SetReadBuffer(8<<20))
		}))
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	t.conn = conn
	return nil
}

// Apply changes frontends, in one transaction. After an error the kernel is as it was before; what it
// holds may not be what was thought, so the caller calls Sync.
func (t *Table) Apply(changes spec.Changes) error {
	var is, should elements
	before := touched{shapes: map[shape]bool{}, hairpin: map[netip.Addr]bool{}}
	for key, next := range changes {
		if !key.Addr.Is4() {
			continue
		}
		old := t.applied[key]
		if old.Equal(next) {
			continue
		}
		is.add(key, old)
		should.add(key, next)
		t.shared.replace(key, old, next, &before)
	}
	d := diff(is.settle(), should.settle())
	before.settle(t.shared, &d)
	// Nothing is no transaction, and raises no generation.
	if !d.empty() {
		if err := t.commit(d); err != nil {
			// The counts have moved on: only a Sync makes them right again.
			return fmt.Errorf("applying %d changed frontends: %w", len(changes), err)
		}
	}
	stale := t.staleFlows(changes, false)
	t.record(changes)
	return t.deleteFlows(stale)
}

func (t *Table) record(changes spec.Changes) {
	for key, next := range changes {
		switch {
		case !key.Addr.Is4():
		case next == nil:
			delete(t.applied, key)
		default:
			t.applied[key] = next
		}
	}
}

// Sync makes the kernel hold exactly the desired frontends. It reads what the kernel has and writes the
// difference in one transaction, except where no packet can notice (see rebuild): rules that are right already
// are not touched, however long ago and by whichever process they were written. It tells whether anything had to
// be changed.
func (t *Table) Sync(desired map[spec.Key]*spec.Frontend) (changed bool, err error) {
	if err := t.reopen(); err != nil {
		return false, err
	}
	shared, frontends := newSharing(), make(map[spec.Key]*spec.Frontend, len(desired))
	for key, f := range desired {
		if f == nil || !key.Addr.Is4() {
			continue
		}
		shared.change(key, f, +1)
		frontends[key] = f
	}
	expected := count(frontends) + len(shared.hairpin)
	is, shapes, generation, whole, err := t.read(expected)
	if err != nil {
		return false, err
	}
	t.generation = generation
	var d difference
	if whole {
		d = diff(is, slices.AppendSeq(make(elements, 0, expected), every(frontends, shared)).settle())
	} else {
		shapes = nil
		if err := t.rebuild(every(frontends, shared)); err != nil {
			return true, fmt.Errorf("building nftables table %s: %w", t.layout.table.Name, err)
		}
	}
	for sh := range shared.shapes {
		if !slices.Contains(shapes, sh) {
			d.newShapes = append(d.newShapes, sh)
		}
	}
	for _, sh := range shapes {
		if shared.shapes[sh] == 0 {
			d.oldShapes = append(d.oldShapes, sh)
		}
	}
	sortShapes(d.newShapes)
	sortShapes(d.oldShapes)
	changed = !whole || !d.empty()
	if changed {
		if err := t.commit(d); err != nil {
			return changed, fmt.Errorf("writing nftables table %s: %w", t.layout.table.Name, err)
		}
	}
	stale := t.staleFlows(frontends, true)
	for _, e := range d.remove {
		// What an earlier process served, and nobody does any more.
		key, ok := frontendOf(e)
		switch {
		case ok && key.Proto == unix.IPPROTO_TCP:
			t.unanswered[netip.AddrPortFrom(key.Addr, key.Port)] = struct{}{}
		case ok && key.Proto == unix.IPPROTO_UDP:
			stale[netip.AddrPortFrom(key.Addr, key.Port)] = serving(key, func(key spec.Key) *spec.Frontend { return frontends[key] })
		}
	}
	t.applied, t.shared = frontends, shared
	return changed, t.deleteFlows(stale)
}

// Touched tells whether anybody but the Table has changed the node's ruleset, in whatever table, since
// the last Sync or Apply. It costs one small read.
func (t *Table) Touched() (bool, error) {
	generation, err := t.readGeneration()
	return generation != t.generation, err
}

// rebuild queues the table anew, with all elements, in place of what may be there. Where no chain is there that
// packets could meet, the sets are filled before: such a table serves nobody until the chains come, so that they
// need not wait in one transaction.
func (t *Table) rebuild(all iter.Seq[element]) error {
	chains, err := kernel.CountRules(t.ns, t.layout.table)
	if err != nil {
		return err
	}
	t.conn.AddTable(t.layout.table)
	t.conn.DelTable(t.layout.table)
	t.conn.AddTable(t.layout.table)
	for number, name := range slices.Sorted(maps.Keys(t.layout.sets)) {
		// The identifier is of one transaction only. The library would count all of the process's sets, without a lock.
		set := *t.layout.sets[name]
		set.ID = uint32(number + 1)
		_ = t.conn.AddSet(&set, nil)
	}
	messages := 0
	err = t.queue(all, func(set *nftables.Set, items []nftables.SetElement) error {
		messages++
		if err := t.conn.SetAddElements(set, items); err != nil || len(chains) > 0 || messages%atOnce > 0 {
			return err
		}
		return t.flush()
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(t.layout.chains)) {
		t.conn.AddChain(t.layout.chains[name])
	}
	for _, rule := range t.layout.rules {
		t.conn.AddRule(rule)
	}
	return nil
}

// commit writes the difference, and what is queued already, in one transaction.
func (t *Table) commit(d difference) error {
	for _, sh := range d.newShapes {
		t.addShape(sh)
	}
	if err := t.queue(slices.Values(d.remove), t.conn.SetDeleteElements); err != nil {
		return err
	}
	if err := t.queue(slices.Values(d.insert), t.conn.SetAddElements); err != nil {
		return err
	}
	for _, sh := range d.oldShapes {
		if err := t.conn.SetDeleteElements(t.layout.sets[sh.set()], []nftables.SetElement{shapeElement(sh)}); err != nil {
			return err
		}
		t.conn.DelChain(&nftables.Chain{Name: sh.chain(), Table: t.layout.table})
	}
	return t.flush()
}

// flush writes what is queued, in one transaction.
func (t *Table) flush() error {
	if err := t.conn.Flush(); err != nil {
		return errors.Join(err, t.reopen())
	}
	// If somebody else committed in between, the generation is not the one that we expect, and the
	// next comparison looks closer.
	t.generation++
	if t.generation == 0 {
		t.generation = 1
	}
	return nil
}

func (t *Table) addShape(sh shape) {
	chain := t.conn.AddChain(&nftables.Chain{Name: sh.chain(), Table: t.layout.table})
	for _, exprs := range sh.rules() {
		t.conn.AddRule(&nftables.Rule{Table: t.layout.table, Chain: chain, Exprs: exprs})
	}
	_ = t.conn.SetAddElements(t.layout.sets[sh.set()], []nftables.SetElement{shapeElement(sh)})
}

func shapeElement(sh shape) nftables.SetElement {
	return nftables.SetElement{
		Key:         appendNative(nil, sh.code()),
		VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: sh.chain()},
	}
}

// queue sends elements to their sets, in chunks.
func (t *Table) queue(all iter.Seq[element], send func(*nftables.Set, []nftables.SetElement) error) error {
	waiting, items := make([]elements, len(indexed)), []nftables.SetElement(nil)
	flush := func(index setIndex) error {
		set := t.layout.sets[index.name()]
		key, value := t.layout.lengths(set.Name)
		items = items[:0]
		for i := range waiting[index] {
			e := &waiting[index][i]
			item := nftables.SetElement{Key: e.key[:key], Val: e.value[:value]}
			if set.Interval {
				item.Key, item.KeyEnd = e.key[:key/2], e.key[key/2:key]
			}
			items = append(items, item)
		}
		waiting[index] = waiting[index][:0]
		if err := send(set, items); err != nil {
			return fmt.Errorf("encoding elements of %s: %w", set.Name, err)
		}
		return nil
	}
	for e := range all {
		waiting[e.set] = append(waiting[e.set], e)
		if len(waiting[e.set]) == chunk {
			if err := flush(e.set); err != nil {
				return err
			}
		}
	}
	for index := range waiting {
		if len(waiting[index]) > 0 {
			if err := flush(setIndex(index)); err != nil {
				return err
			}
		}
	}
	return nil
}
