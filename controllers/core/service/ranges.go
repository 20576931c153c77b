package service

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
)

// The lower part of each range is left to those who ask for something in particular, as upstream does, so
// that draws rarely take what a manifest names. The part's size is a share of the range within bounds.
const (
	addressShare, minAddresses, maxAddresses = 16, 16, 256
	portShare, minPorts, maxPorts            = 32, 16, 128
)

const (
	// maxAddressRange is how many addresses of a range are used at most.
	maxAddressRange = 1 << 16
	// randomDraws is how often a random number is tried before the range is searched from end to end.
	randomDraws = 32
	// dnsOffset is where the cluster's DNS is: the tenth address.
	dnsOffset = 10
)

// addresses is the range of cluster addresses. Offsets count from 1, the first usable address.
type addresses struct {
	prefix netip.Prefix
	size   int
	// lower is the size of the lower part.
	lower int
}

func newAddresses(cidr string) (addresses, error) {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return addresses{}, fmt.Errorf("parsing the service range: %w", err)
	}
	bits := prefix.Addr().BitLen() - prefix.Bits()
	size := maxAddressRange
	if bits < 16 {
		size = 1 << bits
	}
	lower := lowerPart(size, addressShare, minAddresses, maxAddresses)
	size-- // the range's own address
	if prefix.Addr().Is4() && bits <= 16 {
		size-- // the broadcast address
	}
	if size <= dnsOffset {
		return addresses{}, fmt.Errorf("the service range %s is too small", cidr)
	}
	return addresses{prefix: prefix.Masked(), size: size, lower: lower}, nil
}

// at returns the address at an offset from 1 to size.
func (r addresses) at(offset int) netip.Addr {
	if r.prefix.Addr().Is4() {
		bytes := r.prefix.Addr().As4()
		binary.BigEndian.PutUint32(bytes[:], binary.BigEndian.Uint32(bytes[:])+uint32(offset))
		return netip.AddrFrom4(bytes)
	}
	bytes := r.prefix.Addr().As16()
	low := bytes[8:]
	binary.BigEndian.PutUint64(low, binary.BigEndian.Uint64(low)+uint64(offset))
	return netip.AddrFrom16(bytes)
}

// contains tells whether an address may be a service's.
func (r addresses) contains(address netip.Addr) bool {
	return r.prefix.Contains(address) && address != r.prefix.Addr() && (!address.Is4() || address != r.last())
}

func (r addresses) last() netip.Addr {
	bytes := r.prefix.Addr().As4()
	host := uint32(1)<<(32-r.prefix.Bits()) - 1
	binary.BigEndian.PutUint32(bytes[:], binary.BigEndian.Uint32(bytes[:])|host)
	return netip.AddrFrom4(bytes)
}

// api is the address of default/kubernetes, dns that of the cluster's DNS. Neither is ever drawn.
func (r addresses) api() netip.Addr { return r.at(1) }
func (r addresses) dns() netip.Addr { return r.at(dnsOffset) }

// draw yields offsets from 1 to size, each at least once: random ones of the upper part, then all of the
// upper and at last all of the lower part.
func (r addresses) draw(yield func(int) bool) {
	draw(r.size, r.lower, yield)
}

// ports is the range of node ports.
type ports struct{ first, last int32 }

func (r ports) contains(port int32) bool { return port >= r.first && port <= r.last }

// String is the range as upstream writes it.
func (r ports) String() string { return fmt.Sprintf("%d-%d", r.first, r.last) }

// draw yields ports as addresses.draw yields offsets.
func (r ports) draw(yield func(int32) bool) {
	size := int(r.last-r.first) + 1
	draw(size, lowerPart(size, portShare, minPorts, maxPorts), func(offset int) bool {
		return yield(r.first + int32(offset) - 1)
	})
}

func lowerPart(size, share, least, most int) int {
	if size <= least {
		return 0
	}
	return min(max(size/share, least), most)
}

func draw(size, lower int, yield func(int) bool) {
	upper := size - lower
	for range min(randomDraws, upper) {
		if !yield(lower + 1 + rand.IntN(upper)) {
			return
		}
	}
	for i := range size {
		if !yield((lower+i)%size + 1) {
			return
		}
	}
}
