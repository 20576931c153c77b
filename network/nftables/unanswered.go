package nftables

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// The kernel's numbers of attributes and of bits of a conntrack entry's status.
const (
	ctaStatusMask = 26
	seenReply     = 1 << 1
	dstNAT        = 1 << 5
)

// deleteUnanswered deletes the TCP entries in the calling thread's namespace whose endpoints are gone and have
// not answered. The kernel selects the unanswered ones, so that a large table of connections costs little.
func deleteUnanswered(stale flows) error {
	dump := conntrackRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	dump.AddData(nl.NewRtAttr(nl.CTA_STATUS, nl.BEUint32Attr(dstNAT)))
	dump.AddData(nl.NewRtAttr(ctaStatusMask, nl.BEUint32Attr(dstNAT|seenReply)))
	var errs []error
	err := dump.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		entry := message[nl.SizeofNfgenmsg:]
		if frontend, endpoint, ok := unanswered(entry); !ok || !stale.gone(frontend, endpoint) {
			return true
		}
		remove := conntrackRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		remove.AddRawData(entry)
		if _, err := remove.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
		return true
	})
	return errors.Join(append(errs, err)...)
}

func conntrackRequest(operation, flags int) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|operation, flags)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	return request
}

// unanswered reads from an entry's attributes where its client sent it and who should answer; it is false for
// what is not TCP or was answered.
func unanswered(entry []byte) (frontend, endpoint netip.AddrPort, ok bool) {
	var there, back tuple
	var status uint32
	err := kernel.Attributes(entry, func(kind uint16, content []byte) {
		switch {
		case kind == nl.CTA_TUPLE_ORIG:
			there = tupleOf(content)
		case kind == nl.CTA_TUPLE_REPLY:
			back = tupleOf(content)
		case kind == nl.CTA_STATUS && len(content) == 4:
			status = binary.BigEndian.Uint32(content)
		}
	})
	return there.destination, back.source, err == nil && there.proto == unix.IPPROTO_TCP && status&seenReply == 0
}

// tuple is one direction of an entry.
type tuple struct {
	source, destination netip.AddrPort
	proto               byte
}

func tupleOf(b []byte) (t tuple) {
	var source, destination netip.Addr
	var sourcePort, destinationPort uint16
	// What is cut off has no protocol, and is nobody's.
	_ = kernel.Attributes(b, func(part uint16, content []byte) {
		_ = kernel.Attributes(content, func(kind uint16, value []byte) {
			switch {
			case part == nl.CTA_TUPLE_IP && kind == nl.CTA_IP_V4_SRC:
				source, _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_IP && kind == nl.CTA_IP_V4_DST:
				destination, _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_NUM && len(value) == 1:
				t.proto = value[0]
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_SRC_PORT && len(value) == 2:
				sourcePort = binary.BigEndian.Uint16(value)
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_DST_PORT && len(value) == 2:
				destinationPort = binary.BigEndian.Uint16(value)
			}
		})
	})
	t.source, t.destination = netip.AddrPortFrom(source, sourcePort), netip.AddrPortFrom(destination, destinationPort)
	return t
}
