package check

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

const (
	// header4 and header6 are the bytes of an IP header and of ICMP's in front of what is sent.
	header4 = 20 + 8
	header6 = 40 + 8
	// echoPayload is what small packets carry, in bytes.
	echoPayload = 32
)

// ping sends ICMP echo requests from a namespace until one is answered, at most tries of them. size is the
// whole packet's, in bytes; such a packet may not be cut on the way. 0 means a small packet.
func ping(ctx context.Context, from *kernel.Namespace, to netip.Addr, size int) error {
	network, protocol, header := "ip4:icmp", 1, header4
	var kind icmp.Type = ipv4.ICMPTypeEcho
	if to.Is6() {
		network, protocol, header, kind = "ip6:ipv6-icmp", 58, header6, ipv6.ICMPTypeEchoRequest
	}
	payload := echoPayload
	if size > header {
		payload = size - header
	}
	var conn net.PacketConn
	err := from.Do(func() (err error) {
		config := net.ListenConfig{Control: whole}
		conn, err = config.ListenPacket(ctx, network, "")
		return err
	})
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer conn.Close()
	id := rand.IntN(1 << 16)
	for try := range tries {
		if err := ctx.Err(); err != nil {
			return err
		}
		request, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: try, Data: make([]byte, payload)}}).Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return errors.New(sendReason(err))
		}
		if answered(conn, protocol, to, id) {
			return nil
		}
	}
	return errors.New("no answer")
}

func sendReason(err error) string {
	switch {
	case errors.Is(err, unix.EMSGSIZE):
		return "the packet is larger than the way allows"
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return "there is no route to it"
	}
	return err.Error()
}

// whole forbids that packets are cut: into fragments, or by what the kernel believes of the way.
func whole(network, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		if network == "ip4:icmp" || network == "ip4" {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		} else {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		}
	})
	return errors.Join(err, failed)
}

// answered waits for the answer to one request.
func answered(conn net.PacketConn, protocol int, from netip.Addr, id int) bool {
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	buffer := make([]byte, 1<<16)
	for {
		n, sender, err := conn.ReadFrom(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil {
			// An ICMP error about an earlier packet; the deadline bounds the loop.
			if failure := (net.Error)(nil); !errors.As(err, &failure) {
				return false
			}
			continue
		}
		message, err := icmp.ParseMessage(protocol, buffer[:n])
		if err != nil {
			continue
		}
		ip, ok := sender.(*net.IPAddr)
		if !ok || !ip.IP.Equal(from.AsSlice()) || message.Type != ipv4.ICMPTypeEchoReply && message.Type != ipv6.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := message.Body.(*icmp.Echo); ok && echo.ID == id {
			return true
		}
	}
}
