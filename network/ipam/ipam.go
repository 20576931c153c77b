package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ErrExhausted says that every address of the range is taken.
var ErrExhausted = errors.New("no pod address is free")

// Lease is one address and the sandbox that has it.
type Lease struct {
	Address netip.Addr `json:"address"`
	// Owner is the key of the sandbox.
	Owner string `json:"owner"`
	// Note is for people who look into the directory.
	Note string `json:"note,omitempty"`
}

// Pool hands out addresses. Its methods may be called from any goroutine of one process; two
// processes must not share a directory.
type Pool struct {
	dir string

	mu     sync.Mutex
	leases map[netip.Addr]Lease
	// last is the address handed out last in each range, so that a released address rests until the
	// whole range has been used once.
	last map[netip.Prefix]netip.Addr
}

// cursor is the prefix of the files that remember, across restarts, which address came last. Losing
// one costs an address its rest, nothing else.
const cursor = "last-"

// Open reads the pool under dir, which it makes when it is not there. Leftovers of a crash are removed.
func Open(dir string) (*Pool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the address directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the address directory: %w", err)
	}
	p := &Pool{dir: dir, leases: map[netip.Addr]Lease{}, last: map[netip.Prefix]netip.Addr{}}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if name, ok := strings.CutPrefix(entry.Name(), cursor); ok {
			p.readCursor(path, name)
			continue
		}
		address, err := netip.ParseAddr(entry.Name())
		if err != nil {
			// A temporary file of an Acquire that never came to its link.
			_ = os.Remove(path)
			continue
		}
		lease, err := readLease(path, address)
		if err != nil {
			return nil, err
		}
		p.leases[address] = lease
	}
	return p, nil
}

func readLease(path string, address netip.Addr) (Lease, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Lease{}, fmt.Errorf("reading the lease of %s: %w", address, err)
	}
	var lease Lease
	// An unreadable lease (a power cut before the content reached the disk) keeps its address until
	// Retain finds that nobody lives who has it.
	_ = json.Unmarshal(content, &lease)
	lease.Address = address
	return lease, nil
}

func (p *Pool) readCursor(path, name string) {
	prefix, err := netip.ParsePrefix(strings.ReplaceAll(name, "_", "/"))
	content, readErr := os.ReadFile(path)
	if err != nil || readErr != nil {
		return
	}
	if address, err := netip.ParseAddr(string(content)); err == nil && prefix.Contains(address) {
		p.last[prefix] = address
	}
}

// Acquire returns the owner's address in the range; it takes the next free one when the owner has
// none. The first address of the range (the network's) and an IPv4 range's last (broadcast) are never
// handed out.
func (p *Pool) Acquire(owner, note string, within netip.Prefix) (netip.Addr, error) {
	within = within.Masked()
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, lease := range p.leases {
		if lease.Owner == owner && within.Contains(address) {
			return address, nil
		}
	}
	address, err := p.next(within)
	if err != nil {
		return netip.Addr{}, err
	}
	lease := Lease{Address: address, Owner: owner, Note: note}
	if err := p.write(lease); err != nil {
		return netip.Addr{}, err
	}
	p.leases[address] = lease
	p.last[within] = address
	name := cursor + strings.ReplaceAll(within.String(), "/", "_")
	_ = os.WriteFile(filepath.Join(p.dir, name), []byte(address.String()), 0o600)
	return address, nil
}

// next walks the range once, from behind the address handed out last.
func (p *Pool) next(within netip.Prefix) (netip.Addr, error) {
	first := within.Addr().Next()
	candidate := first
	if last, ok := p.last[within]; ok {
		candidate = last.Next()
	}
	// Among so many candidates one is free, whatever the range's size: an IPv6 range need not be walked.
	for range len(p.leases) + 4 {
		if !usable(candidate, within) {
			candidate = first
		}
		if _, taken := p.leases[candidate]; !taken && usable(candidate, within) {
			return candidate, nil
		}
		candidate = candidate.Next()
	}
	return netip.Addr{}, fmt.Errorf("%w in %s", ErrExhausted, within)
}

func usable(address netip.Addr, within netip.Prefix) bool {
	if !within.Contains(address) || address == within.Addr() {
		return false
	}
	// The last address of an IPv4 range is the one whose successor lies outside.
	return !address.Is4() || within.Contains(address.Next())
}

// write links a complete file into place: it fails when the address has a file already.
func (p *Pool) write(lease Lease) error {
	content, err := json.Marshal(lease)
	if err != nil {
		return fmt.Errorf("encoding the lease of %s: %w", lease.Address, err)
	}
	temporary, err := os.CreateTemp(p.dir, "tmp-")
	if err != nil {
		return fmt.Errorf("writing the lease of %s: %w", lease.Address, err)
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	if err = errors.Join(err, temporary.Close()); err != nil {
		return fmt.Errorf("writing the lease of %s: %w", lease.Address, err)
	}
	if err := os.Link(temporary.Name(), filepath.Join(p.dir, lease.Address.String())); err != nil {
		return fmt.Errorf("claiming address %s: %w", lease.Address, err)
	}
	return nil
}

// Release gives back every address of the owner. It returns nil when there is none.
func (p *Pool) Release(owner string) error {
	return p.Retain(func(lease Lease) bool { return lease.Owner != owner })
}

// Retain gives back every address whose lease keep refuses.
func (p *Pool) Retain(keep func(Lease) bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for address, lease := range p.leases {
		if keep(lease) {
			continue
		}
		if err := os.Remove(filepath.Join(p.dir, address.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("releasing address %s: %w", address, err))
			continue
		}
		delete(p.leases, address)
	}
	return errors.Join(errs...)
}

// Adopt records that the owner has the address: the runtime remembers it although the pool's file is
// gone. It fails when another owner has it.
func (p *Pool) Adopt(owner, note string, address netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if lease, taken := p.leases[address]; taken {
		if lease.Owner == owner {
			return nil
		}
		return fmt.Errorf("adopting address %s: it belongs to %s", address, lease.Owner)
	}
	lease := Lease{Address: address, Owner: owner, Note: note}
	if err := p.write(lease); err != nil {
		return err
	}
	p.leases[address] = lease
	return nil
}

// Leases lists what is taken, sorted by address.
func (p *Pool) Leases() []Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	leases := make([]Lease, 0, len(p.leases))
	for _, lease := range p.leases {
		leases = append(leases, lease)
	}
	slices.SortFunc(leases, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return leases
}
