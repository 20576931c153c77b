package nftables

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
	"drayage.dev/network/spec"
)

// Names of the sets in the table. Those with a plane (see plane) are there once for each.
const (
	setServices   = "svc"
	setShapes     = "shapes"
	setEndpoints  = "ep"
	setNames      = "names"
	setAffinity   = "affinity"
	setGroups     = "groups"
	setSizes      = "sizes"
	setMembers    = "members"
	setHairpin    = "hairpin"
	setRestricted = "restricted"
	setSources    = "sources"
)

// plane tells frontends for clients on this node from those for everybody: each has sets of its own.
type plane bool

const (
	everybody plane = false
	inside    plane = true
)

// set is the name of one of the plane's sets.
func (p plane) set(name string) string {
	if p == inside {
		return name + "-in"
	}
	return name
}

// setIndex is a set's place among those whose elements are compared one by one: all but verdict maps and what
// clients enter.
type setIndex uint8

// indexed are the names of those sets, in the order of a transaction.
var indexed = func() (names []string) {
	for _, p := range []plane{everybody, inside} {
		names = append(names, p.set(setServices), p.set(setEndpoints), p.set(setNames), p.set(setGroups), p.set(setSizes))
	}
	return append(names, setHairpin, setRestricted, setSources)
}()

var indexes = func() map[string]setIndex {
	all := map[string]setIndex{}
	for i, name := range indexed {
		all[name] = setIndex(i)
	}
	return all
}()

func indexOf(set string) setIndex { return indexes[set] }

// index is that of one of the plane's sets.
func (p plane) index(name string) setIndex { return indexOf(p.set(name)) }

// name is the set's.
func (i setIndex) name() string { return indexed[i] }

// maxClients bounds how many clients' affinities the kernel remembers; further ones are spread as if
// there were no affinity.
const maxClients = 1 << 18

// Registers of 32 bits, 16 of them in a row: concatenated keys are loaded into neighbours.
const reg0 = unix.NFT_REG32_00

// masqueradeMark is the bit of the packet mark that stands between the choice of an endpoint and the
// masquerade. NAT chains see a connection's first packet only, so no other packet carries it.
const masqueradeMark = 0x2000

// weighted stands in a shape's code where the number of slots stands else. It is one more than the
// most slots.
const weighted = spec.MaxSlots + 1

// groupBits is where a group's number stands above a slot's number within it.
const groupBits = 14

// shape is all that the rules of a frontend, or of one of its groups, depend on, so those of one shape
// share a chain.
type shape struct {
	plane plane
	// slots is their number, or weighted. With none, connections are refused, or dropped.
	slots      int
	drop       bool
	affinity   time.Duration
	masquerade bool
	// member says that this is a group's, and group which; such a shape is of no plane.
	member bool
	group  int
}

func shapeOf(key spec.Key, f *spec.Frontend) shape {
	s := shape{plane: plane(key.Inside), slots: min(len(f.Slots), spec.MaxSlots)}
	if len(f.Groups) > 0 {
		s.slots = weighted
	}
	if s.slots > 0 {
		s.affinity, s.masquerade = f.Affinity, f.Masquerade
	} else {
		s.drop = f.Drop
	}
	return s
}

// shapesOf are the shapes of the frontend and of its groups.
func shapesOf(key spec.Key, f *spec.Frontend) []shape {
	shapes := []shape{shapeOf(key, f)}
	for i, group := range f.Groups {
		shapes = append(shapes, memberShape(i, group))
	}
	return shapes
}

func memberShape(number int, group spec.Group) shape {
	return shape{member: true, group: number, slots: min(len(group.Slots), spec.MaxSlots)}
}

// set is the verdict map that leads to the shape's chain.
func (s shape) set() string {
	if s.member {
		return setMembers
	}
	return s.plane.set(setShapes)
}

// code is the shape as the maps hold it: slots in the lower 14 bits, seconds of affinity in the next 17,
// masquerade (or drop, where there are no slots) in the highest. Groups have their number above the slots.
func (s shape) code() uint32 {
	if s.member {
		return uint32(s.group)<<groupBits | uint32(s.slots)
	}
	code := uint32(s.affinity/time.Second)<<14 | uint32(s.slots)
	if s.masquerade || s.drop {
		code |= 1 << 31
	}
	return code
}

func shapeOfCode(set string, code uint32) shape {
	slots := int(code & (1<<14 - 1))
	if set == setMembers {
		return shape{member: true, group: int(code >> groupBits), slots: slots}
	}
	high := code>>31 == 1
	return shape{
		plane: plane(set == inside.set(setShapes)), slots: slots, affinity: time.Duration(code<<1>>15) * time.Second,
		masquerade: high && slots > 0, drop: high && slots == 0,
	}
}

func (s shape) chain() string {
	if s.member {
		return fmt.Sprintf("g%d-%d", s.group, s.slots)
	}
	name := fmt.Sprintf("m%d", s.slots)
	switch {
	case s.drop:
		name = "drop"
	case s.slots == 0:
		name = "refuse"
	case s.slots == weighted:
		name = "weighted"
	}
	if s.affinity > 0 {
		name += fmt.Sprintf("-a%d", int(s.affinity/time.Second))
	}
	if s.masquerade {
		name += "-masq"
	}
	return s.plane.set(name)
}

// layout is the table's objects, without elements.
type layout struct {
	table  *nftables.Table
	sets   map[string]*nftables.Set
	chains map[string]*nftables.Chain
	rules  []*nftables.Rule
}

func newLayout() *layout {
	table := &nftables.Table{Name: kernel.ServiceTable, Family: nftables.TableFamilyIPv4}
	// Numbers pass from rule to rule in the packet's priority, so they have its type.
	address, proto, port, number := nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeClassID
	numbered := nftables.MustConcatSetType(address, proto, port, number)
	l := &layout{table: table, sets: map[string]*nftables.Set{}, chains: map[string]*nftables.Chain{}}
	frontend := nftables.MustConcatSetType(address, proto, port)
	sets := []*nftables.Set{
		{Name: setMembers, IsMap: true, KeyType: number, DataType: nftables.TypeVerdict},
		{Name: setHairpin, KeyType: nftables.MustConcatSetType(address, address)},
		{Name: setRestricted, KeyType: frontend},
		{Name: setSources, Interval: true, Concatenation: true, KeyType: nftables.MustConcatSetType(address, proto, port, address)},
	}
	for _, p := range []plane{everybody, inside} {
		sets = append(sets,
			&nftables.Set{Name: p.set(setServices), IsMap: true, KeyType: frontend, DataType: number},
			&nftables.Set{Name: p.set(setShapes), IsMap: true, KeyType: number, DataType: nftables.TypeVerdict},
			&nftables.Set{Name: p.set(setEndpoints), IsMap: true, KeyType: numbered, DataType: nftables.MustConcatSetType(address, port)},
			&nftables.Set{Name: p.set(setNames), IsMap: true, KeyType: numbered, DataType: number},
			&nftables.Set{Name: p.set(setGroups), IsMap: true, KeyType: numbered, DataType: number},
			&nftables.Set{Name: p.set(setSizes), IsMap: true, KeyType: numbered, DataType: number},
			&nftables.Set{Name: p.set(setAffinity), IsMap: true, HasTimeout: true, Dynamic: true, Size: maxClients, DataType: number,
				KeyType: nftables.MustConcatSetType(address, address, proto, port)})
	}
	for _, set := range sets {
		set.Table = table
		l.sets[set.Name] = set
	}
	nat, filter := nftables.ChainTypeNAT, nftables.ChainTypeFilter
	l.addBase("prerouting", nat, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, dispatch(fromPods())...)
	l.addBase("output", nat, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, dispatch(nil)...)
	l.addBase("postrouting", nat, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, hairpin(), masquerade())
	l.addBase("errors-in", filter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, append(keepTrying(), strays())...)
	l.addBase("errors-out", filter, nftables.ChainHookOutput, nftables.ChainPriorityMangle, keepTrying()...)
	mark := l.fingerprint()
	l.chains[mark] = &nftables.Chain{Name: mark, Table: table}
	return l
}

// fingerprint names the layout: a table of another one, which an older or newer version left, is built
// anew. It stands in the kernel as the name of an empty chain.
func (l *layout) fingerprint() string {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(l.sets)) {
		set := l.sets[name]
		fmt.Fprintf(sum, "%s %s %s %d %t\n", name, set.KeyType.Name, set.DataType.Name, set.Size, set.Interval)
	}
	rules := slices.Clone(l.rules)
	for _, sample := range []shape{
		{}, {drop: true}, {slots: 2, affinity: time.Hour, masquerade: true}, {slots: weighted, affinity: time.Hour},
		{slots: weighted, plane: inside}, {member: true, group: 1, slots: 2},
	} {
		for _, exprs := range sample.rules() {
			rules = append(rules, &nftables.Rule{Exprs: exprs})
		}
	}
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			// What cannot be encoded fails when it is to be written.
			encoded, _ := expr.Marshal(byte(l.table.Family), e)
			sum.Write(encoded)
		}
	}
	return "is-" + hex.EncodeToString(sum.Sum(nil)[:8])
}

func (l *layout) addBase(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules ...[]expr.Any) {
	accept := nftables.ChainPolicyAccept
	l.chains[name] = &nftables.Chain{
		Name: name, Table: l.table, Type: kind, Hooknum: hook, Priority: priority, Policy: &accept,
	}
	for _, exprs := range rules {
		l.rules = append(l.rules, &nftables.Rule{Table: l.table, Chain: l.chains[name], Exprs: exprs})
	}
}

// lengths are those of the keys and values of a set's elements, in bytes.
func (l *layout) lengths(set string) (key, value int) {
	s := l.sets[set]
	key = int(s.KeyType.Bytes)
	if s.Interval {
		key *= 2
	}
	return key, int(s.DataType.Bytes)
}

// ruleCount is how many rules a base chain has.
func (l *layout) ruleCount(chain string) int {
	count := 0
	for _, rule := range l.rules {
		if rule.Chain.Name == chain {
			count++
		}
	}
	return count
}

// loadFrontend loads destination address, protocol and port into three registers from first on.
func loadFrontend(first uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: first + 1},
		&expr.Payload{DestRegister: first + 2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

func loadSource(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

// lookup finds the key that begins at register and loads what the map has for it, or breaks the rule off.
func lookup(set string, key, value uint32) expr.Any {
	return &expr.Lookup{SetName: set, SourceRegister: key, DestRegister: value, IsDestRegSet: true}
}

// The packet's priority is the one place where a rule can leave a number for the next rule without
// touching marks, which belong to the host's administrator. The kernel sets the priority of forwarded
// packets anew afterwards. (A rule could go from one map to the next through a register, but nft 1.0.6
// aborts when it is to list such a rule.)

func setNumber(register uint32) expr.Any {
	return &expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: register}
}

func loadNumber(register uint32) expr.Any {
	return &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: register}
}

// dispatch leads packets to frontends to their shapes' chains: clients on the node, which inside matches,
// to those that are theirs first. A packet that comes back from there met a transaction on its way: a map
// had the new generation already and a chain the old one, or the slot that it chose has gone. It is
// dropped, so that its sender repeats it; let through, it would be answered unreachable, and the
// connection would be lost.
func dispatch(client []expr.Any) [][]expr.Any {
	rules := [][]expr.Any{append(loadFrontend(reg0), &expr.Lookup{SetName: setRestricted, SourceRegister: reg0},
		loadSource(reg0+3), &expr.Lookup{SetName: setSources, SourceRegister: reg0, Invert: true},
		&expr.Verdict{Kind: expr.VerdictDrop})}
	for _, p := range []plane{inside, everybody} {
		find := append(loadFrontend(reg0), lookup(p.set(setServices), reg0, reg0))
		if p == inside {
			find = append(slices.Clone(client), find...)
		}
		rules = append(rules,
			append(slices.Clone(find), setNumber(reg0), loadNumber(reg0), lookup(p.set(setShapes), reg0, unix.NFT_REG_VERDICT)),
			append(slices.Clone(find), &expr.Verdict{Kind: expr.VerdictDrop}))
	}
	return rules
}

// fromPods matches packets that come from a pod of this node, by the name of its link.
func fromPods() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte(kernel.LinkPrefix)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: []byte(kernel.NodeLinkPrefix)},
	}
}

// hairpin masquerades what a pod sends to itself by way of a service.
func hairpin() []expr.Any {
	return []expr.Any{
		loadSource(reg0),
		&expr.Payload{DestRegister: reg0 + 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Lookup{SetName: setHairpin, SourceRegister: reg0}, &expr.Masq{},
	}
}

func masquerade() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
		bits(reg0, masqueradeMark, 0),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: kernel.NativeUint32(masqueradeMark)}, &expr.Masq{},
	}
}

// bits keeps the bits of mask and turns those of flip over.
func bits(register, mask, flip uint32) expr.Any {
	return &expr.Bitwise{
		SourceRegister: register, DestRegister: register, Len: 4,
		Mask: kernel.NativeUint32(mask), Xor: kernel.NativeUint32(flip),
	}
}

func random(register uint32, slots int) expr.Any {
	return &expr.Numgen{Register: register, Modulus: uint32(slots), Type: unix.NFT_NG_RANDOM}
}

// dnat sends the connection to the endpoint that the ep map has for the frontend and the number in the
// four registers from key on.
func (p plane) dnat(key uint32) []expr.Any {
	return []expr.Any{
		lookup(p.set(setEndpoints), key, reg0),
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4,
			RegAddrMin: reg0, RegProtoMin: reg0 + 1, Specified: true,
		},
	}
}

// byNumber sends the connection to the endpoint of the number that the packet carries.
func (p plane) byNumber() []expr.Any {
	return append(append(loadFrontend(reg0), loadNumber(reg0+3)), p.dnat(reg0)...)
}

// rules of the shape's chain.
func (s shape) rules() [][]expr.Any {
	switch {
	case s.member:
		// The chain of the frontend goes on with the slot's number.
		return [][]expr.Any{{&expr.Numgen{
			Register: reg0, Modulus: uint32(s.slots), Type: unix.NFT_NG_RANDOM, Offset: uint32(s.group) << groupBits,
		}, setNumber(reg0)}}
	case s.drop:
		return [][]expr.Any{{&expr.Verdict{Kind: expr.VerdictDrop}}}
	case s.slots == 0:
		return refuse()
	}
	var rules [][]expr.Any
	if s.masquerade {
		rules = append(rules, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
			bits(reg0, ^uint32(masqueradeMark), masqueradeMark),
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg0},
		})
	}
	if s.affinity > 0 {
		return append(rules, s.affinityRules()...)
	}
	if s.slots == weighted {
		return append(append(rules, s.choose()...), s.plane.byNumber())
	}
	return append(rules, append(append(loadFrontend(reg0), random(reg0+3, s.slots)), s.plane.dnat(reg0)...))
}

// refuse answers that nobody serves there.
func refuse() [][]expr.Any {
	return [][]expr.Any{
		{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		},
		{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}},
	}
}

// choose leaves a slot's number in the packet: the group first, whose chain chooses the slot.
func (s shape) choose() [][]expr.Any {
	if s.slots != weighted {
		return [][]expr.Any{{random(reg0, s.slots), setNumber(reg0)}}
	}
	return [][]expr.Any{
		append(append(loadFrontend(reg0), random(reg0+3, spec.Shares)), lookup(s.plane.set(setGroups), reg0, reg0), setNumber(reg0)),
		append(append(loadFrontend(reg0), loadNumber(reg0+3)), lookup(s.plane.set(setSizes), reg0, reg0), setNumber(reg0)),
		{loadNumber(reg0), lookup(setMembers, reg0, unix.NFT_REG_VERDICT)},
	}
}

const icmpPortUnreachable = 3

// affinityRules send a known client to where it was before while that still serves; else they forget
// what was known, choose, and remember; where nothing can be remembered, because the map is full, the
// last rule sends the client there all the same. Endpoints are known by name (see endpointName), not by
// slot, so that other endpoints may come and go.
func (s shape) affinityRules() [][]expr.Any {
	client := func() []expr.Any { return append([]expr.Any{loadSource(reg0)}, loadFrontend(reg0+1)...) }
	affinity := func(operation uint32) expr.Any {
		return &expr.Dynset{
			SetName: s.plane.set(setAffinity), Operation: operation, SrcRegKey: reg0, SrcRegData: reg0 + 4, Timeout: s.affinity,
		}
	}
	rules := [][]expr.Any{
		{&expr.Immediate{Register: reg0, Data: kernel.NativeUint32(nameless)}, setNumber(reg0)},
		append(client(), lookup(s.plane.set(setAffinity), reg0, reg0), setNumber(reg0)),
		// Seen again: the time counts from here. If the endpoint is gone this is undone below.
		{
			loadNumber(reg0 + 4), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg0 + 4, Data: kernel.NativeUint32(nameless)},
			loadSource(reg0), loadFrontend(reg0 + 1)[0], loadFrontend(reg0 + 1)[1], loadFrontend(reg0 + 1)[2],
			affinity(unix.NFT_DYNSET_OP_UPDATE),
		},
		s.plane.byNumber(),
		append(append(client(), loadNumber(reg0+4)), affinity(dynsetDelete)),
	}
	return append(append(rules, s.choose()...),
		append(append(loadFrontend(reg0), loadNumber(reg0+3)), lookup(s.plane.set(setNames), reg0, reg0), setNumber(reg0)),
		append(append(client(), loadNumber(reg0+4)), affinity(unix.NFT_DYNSET_OP_UPDATE)),
		s.plane.byNumber())
}

// dynsetDelete is NFT_DYNSET_OP_DELETE (Linux 5.12), which x/sys/unix lacks.
const dynsetDelete = 2

// nameless is no endpoint's name and no slot's number.
const nameless = 1<<32 - 1

// endpointName is the number by which affinity remembers an endpoint: its address. It is larger than
// any slot's number, so both may stand in one map.
func endpointName(endpoint netip.AddrPort) uint32 {
	four := endpoint.Addr().As4()
	return binary.BigEndian.Uint32(four[:])
}

// Encodings of keys and values, as the registers hold them: addresses and ports in network order, each
// field padded to four bytes.

func appendAddress(b []byte, address netip.Addr) []byte {
	four := address.As4()
	return append(b, four[:]...)
}

func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

func appendKey(b []byte, key spec.Key) []byte {
	return appendPort(append(appendAddress(b, key.Addr), key.Proto, 0, 0, 0), key.Port)
}

func appendEndpoint(b []byte, endpoint netip.AddrPort) []byte {
	return appendPort(appendAddress(b, endpoint.Addr()), endpoint.Port())
}

func appendNative(b []byte, value uint32) []byte { return binary.NativeEndian.AppendUint32(b, value) }
