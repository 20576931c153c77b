package podnet

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// nodesSet is the set of the other nodes' addresses.
const nodesSet = "nodes"

// ensureTable holds the table "drayage-podnet" (IPv4): pods' packets to the outside leave with the
// node's address, those to pods, services and nodes with the pod's own; so do those of another network's pods to
// pods of other nodes; and the node's own packets to a service address that no service claims are refused.
func (m *Manager) ensureTable() error {
	table := &nftables.Table{Name: kernel.PodNetTable, Family: nftables.TableFamilyIPv4}
	accept := nftables.ChainPolicyAccept
	postrouting := &nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT, Policy: &accept,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}
	output := &nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter, Policy: &accept,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	}
	nodes := kernel.Set{Set: &nftables.Set{Name: nodesSet, Table: table, KeyType: nftables.TypeIPAddr}, Keys: m.peerAddresses4()}
	ruleset := kernel.Ruleset{Table: table, Sets: []kernel.Set{nodes}, Chains: []*nftables.Chain{postrouting, output}}
	for _, cidr := range only4(m.cidrs) {
		match := inPrefix(sourceOffset, cidr, expr.CmpOpEq)
		for _, ranges := range [][]netip.Prefix{m.cfg.PodRanges, m.cfg.ServiceRanges, m.cidrs} {
			for _, prefix := range only4(ranges) {
				match = append(match, inPrefix(destinationOffset, prefix, expr.CmpOpNeq)...)
			}
		}
		match = append(match,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destinationOffset, Len: 4},
			&expr.Lookup{SourceRegister: 1, SetName: nodesSet, Invert: true}, &expr.Masq{})
		ruleset.Rules = append(ruleset.Rules, &nftables.Rule{Table: table, Chain: postrouting, Exprs: match})
	}
	if m.cfg.Shared && len(only4(m.cidrs)) > 0 {
		for _, prefix := range only4(m.cfg.PodRanges) {
			ruleset.Rules = append(ruleset.Rules, &nftables.Rule{Table: table, Chain: postrouting, Exprs: m.foreign(prefix)})
		}
	}
	for _, prefix := range only4(m.cfg.ServiceRanges) {
		// A reset reaches the connecting process at once; an ICMP error would find its socket busy
		// and be heard at the first retransmission only.
		ruleset.Rules = append(ruleset.Rules,
			&nftables.Rule{Table: table, Chain: output, Exprs: append(unclaimed(prefix),
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
				&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})},
			&nftables.Rule{Table: table, Chain: output, Exprs: append(unclaimed(prefix),
				&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpHostUnreachable})})
	}
	return ruleset.Ensure(m.ns)
}

// foreign masquerades what is forwarded to pods of other nodes in the range from what is neither a pod of
// Drayage's nor a node: from the pods of another network on this node, to whom no other node of Drayage's can answer.
func (m *Manager) foreign(pods netip.Prefix) []expr.Any {
	match := inPrefix(destinationOffset, pods, expr.CmpOpEq)
	for _, own := range only4(m.cidrs) {
		match = append(match, inPrefix(destinationOffset, own, expr.CmpOpNeq)...)
	}
	for _, prefix := range only4(m.cfg.PodRanges) {
		match = append(match, inPrefix(sourceOffset, prefix, expr.CmpOpNeq)...)
	}
	return append(match,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: nodesSet, Invert: true},
		&expr.Fib{Register: 1, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: kernel.NativeUint32(unix.RTN_LOCAL)},
		&expr.Masq{})
}

// unclaimed matches packets to addresses in the prefix that are not the node's own, as the cluster's
// DNS address may be.
func unclaimed(prefix netip.Prefix) []expr.Any {
	return append(inPrefix(destinationOffset, prefix, expr.CmpOpEq),
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: kernel.NativeUint32(unix.RTN_LOCAL)})
}

const (
	// sourceOffset and destinationOffset are where an IPv4 header has the addresses, in bytes.
	sourceOffset      = 12
	destinationOffset = 16

	icmpHostUnreachable = 1
)

func only4(prefixes []netip.Prefix) []netip.Prefix {
	var result []netip.Prefix
	for _, prefix := range prefixes {
		if prefix.Addr().Is4() {
			result = append(result, prefix.Masked())
		}
	}
	return result
}

// inPrefix compares the address at offset with an IPv4 prefix.
func inPrefix(offset uint32, prefix netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: ipNet(prefix).Mask, Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: op, Register: 1, Data: prefix.Addr().AsSlice()},
	}
}
