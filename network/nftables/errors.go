package nftables

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

const (
	// icmpUnreachable is the type of ICMP errors that icmpHostUnreachable is a code of.
	icmpUnreachable     = 3
	icmpHostUnreachable = 1
	// originalDirection is IP_CT_DIR_ORIGINAL: the connection as its client sees it.
	originalDirection = 0
)

// keepTrying drops the ICMP errors that say of a service's endpoint that its host is unreachable. Such a
// connection was begun while the pod was there (its first packet is sent again, or its port was used before and
// the kernel remembers where it went), or the control plane has not heard yet that a node has gone. The error
// would end the client's attempt; without it the client repeats its packet, which goes to a living endpoint
// once the kernel has forgotten (see Table.Forget). Established connections take such errors as a hint at most.
func keepTrying() [][]expr.Any {
	var rules [][]expr.Any
	for _, p := range []plane{inside, everybody} {
		rules = append(rules, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{unix.IPPROTO_ICMP}},
			&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{icmpUnreachable, icmpHostUnreachable}},
			// The connection is the one that the error is about. (nft 1.0.6 knows no length of its address, and
			// aborts when it is to list that as a part of a key; it knows the priority's.)
			&expr.Ct{Key: expr.CtKeyDST, Direction: originalDirection, Register: reg0}, setNumber(reg0), loadNumber(reg0),
			&expr.Ct{Key: expr.CtKeyPROTOCOL, Direction: originalDirection, Register: reg0 + 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg0 + 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Ct{Key: expr.CtKeyPROTODST, Direction: originalDirection, Register: reg0 + 2},
			&expr.Lookup{SetName: p.set(setServices), SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true},
			&expr.Verdict{Kind: expr.VerdictDrop},
		})
	}
	return rules
}

// strays drops what a pod sends that the kernel knows for no connection's, such as a repeated or delayed packet
// beyond the window. Addresses are not translated in such a packet: its receiver, who spoke to a service, would
// answer a reset to the pod's own address, which ends the pod's side of the connection.
func strays() []expr.Any {
	return append(fromPods(),
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
		bits(reg0, expr.CtStateBitINVALID, 0),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: kernel.NativeUint32(0)},
		&expr.Verdict{Kind: expr.VerdictDrop})
}
