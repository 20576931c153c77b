package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dumpBuffer is what the kernel is offered for each part of a dump. It takes at most 32 KiB, and walks
// a set from its beginning for every part, so small parts would make large sets cost their square.
const dumpBuffer = 64 << 10

// dumpPatience bounds the wait for one part of a dump.
const dumpPatience = 10 * time.Second

// ErrInterrupted says that the ruleset changed while it was read, so that what was read may be neither
// the old nor the new state.
var ErrInterrupted = errors.New("the ruleset changed while it was read")

// DumpNFTables asks nftables for everything of one kind (NFT_MSG_GET...), with the request's attributes,
// and passes the attributes of each object to each, which must not keep them.
func (n *Namespace) DumpNFTables(kind uint16, family byte, attributes []byte, each func(attributes []byte) error) error {
	fd, err := n.netfilterSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request := make([]byte, 0, unix.NLMSG_HDRLEN+4+len(attributes))
	request = binary.NativeEndian.AppendUint32(request, uint32(cap(request)))
	request = binary.NativeEndian.AppendUint16(request, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request = append(request, 1, 0, 0, 0, 0, 0, 0, 0, family, unix.NFNETLINK_V0, 0, 0)
	request = append(request, attributes...)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("asking nftables: %w", err)
	}
	buffer := make([]byte, dumpBuffer)
	for {
		length, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading from nftables: %w", os.NewSyscallError("recvfrom", err))
		}
		done, err := messages(buffer[:length], each)
		if done || err != nil {
			return err
		}
	}
}

func (n *Namespace) netfilterSocket() (fd int, err error) {
	err = n.Do(func() error {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("opening netlink: %w", err)
	}
	patience := unix.NsecToTimeval(int64(dumpPatience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return 0, errors.Join(fmt.Errorf("preparing netlink: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// messages takes one part of a dump apart; done says that it was the last.
func messages(part []byte, each func([]byte) error) (done bool, err error) {
	for len(part) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(part))
		if length < unix.NLMSG_HDRLEN || length > len(part) {
			return false, errors.New("reading from nftables: a message is cut off")
		}
		kind, flags := binary.NativeEndian.Uint16(part[4:]), binary.NativeEndian.Uint16(part[6:])
		body := part[unix.NLMSG_HDRLEN:length]
		switch {
		case flags&unix.NLM_F_DUMP_INTR != 0:
			return false, ErrInterrupted
		case kind == unix.NLMSG_DONE:
			return true, nil
		case kind == unix.NLMSG_ERROR:
			code := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			if code == 0 {
				return true, nil
			}
			return false, fmt.Errorf("reading from nftables: %w", code)
		case len(body) >= 4:
			if err := each(body[4:]); err != nil {
				return false, err
			}
		}
		part = part[min(len(part), align(length)):]
	}
	return false, nil
}

func align(length int) int { return (length + 3) &^ 3 }

// Attributes calls each with the type and content of every netlink attribute in b, in order.
func Attributes(b []byte, each func(kind uint16, content []byte)) error {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return errors.New("reading from nftables: an attribute is cut off")
		}
		each(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:length])
		b = b[min(len(b), align(length)):]
	}
	return nil
}

// StringAttribute encodes a netlink attribute that holds a string.
func StringAttribute(kind uint16, text string) []byte {
	length := unix.SizeofNlAttr + len(text) + 1
	b := binary.NativeEndian.AppendUint16(nil, uint16(length))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, text...)
	return append(b, make([]byte, align(length)-length+1)...)
}
