package nftables_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"drayage.dev/network/netlab"
	"drayage.dev/network/spec"
)

// Upstream's proxy had to learn both: the kernel knows a packet beyond the window for no connection's, and does not
// put the service's address into it, so that its receiver resets what it knows nothing of, and the server's
// connection with it; and it forgets a connection that is half closed after a minute.
var _ = Describe("A connection through a service", func() {
	const service = "10.96.0.24:80"
	var (
		w      *world
		client *netlab.Namespace
		server *netlab.Namespace
	)
	// begin connects from a pod or the node, and returns both ends.
	begin := func(from *netlab.Namespace) (conn, served *net.TCPConn) {
		GinkgoHelper()
		listener := listen(server)
		dialled, err := from.Dial("tcp", service, patience)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(dialled.Close)
		accepted, err := listener.Accept()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(accepted.Close)
		return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
	}
	BeforeEach(func() {
		w = newWorld()
		client, _ = w.pod("client")
		ns, address := w.pod("server")
		server = ns
		w.apply(spec.Changes{key(service, tcp): frontend(netip.AddrPortFrom(address.Addr(), 9090))})
	})

	DescribeTable("bears a packet that is beyond its window", func(from func() *netlab.Namespace) {
		conn, served := begin(from())
		for range 3 {
			strayed(server, served)
		}
		// On one machine the client's answer takes microseconds.
		_ = served.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := served.Read(make([]byte, 1))
		Expect(err).To(MatchError(os.ErrDeadlineExceeded), "nothing may come back")
		_ = served.SetReadDeadline(time.Now().Add(patience))
		_, err = conn.Write([]byte("x"))
		Expect(err).NotTo(HaveOccurred())
		Expect(served.Read(make([]byte, 1))).To(Equal(1))
	},
		Entry("of a pod", func() *netlab.Namespace { return client }),
		Entry("of the node", func() *netlab.Namespace { return w.Namespace }),
	)

	It("is remembered long when one side has closed it", func() {
		conn, served := begin(client)
		Expect(conn.CloseWrite()).To(Succeed())
		Expect(served.Read(make([]byte, 1))).Error().To(MatchError(io.EOF))
		// The kernel's own minute is too short for an answer that takes its time.
		Eventually(func() string { return w.conntrack("-L", "-p", "tcp", "--orig-port-dst", "80") }).
			Should(MatchRegexp(`tcp +6 3[0-9]{3} CLOSE_WAIT `))
	})
})

// strayed sends what looks like a packet of the connection from its server's end, half a megabyte beyond what the
// client takes.
func strayed(ns *netlab.Namespace, conn *net.TCPConn) {
	GinkgoHelper()
	here, there := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	here, there = netip.AddrPortFrom(here.Addr().Unmap(), here.Port()), netip.AddrPortFrom(there.Addr().Unmap(), there.Port())
	sent, received := sequence(conn)
	segment := make([]byte, 20)
	binary.BigEndian.PutUint16(segment[0:], here.Port())
	binary.BigEndian.PutUint16(segment[2:], there.Port())
	binary.BigEndian.PutUint32(segment[4:], sent+1<<19)
	binary.BigEndian.PutUint32(segment[8:], received)
	segment[12], segment[13] = 5<<4, 0x10 // five words of header; ACK
	binary.BigEndian.PutUint16(segment[14:], 512)
	binary.BigEndian.PutUint16(segment[16:], checksum(here.Addr(), there.Addr(), segment))
	Expect(ns.Do(func() error {
		raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(raw)
		return unix.Sendto(raw, segment, 0, &unix.SockaddrInet4{Addr: there.Addr().As4()})
	})).To(Succeed())
}

// sequence are the numbers of the next byte to send and the next to receive.
func sequence(conn *net.TCPConn) (sent, received uint32) {
	GinkgoHelper()
	raw, err := conn.SyscallConn()
	Expect(err).NotTo(HaveOccurred())
	const receiveQueue, sendQueue = 1, 2
	var failed error
	Expect(raw.Control(func(fd uintptr) {
		if failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); failed != nil {
			return
		}
		for queue, number := range map[int]*uint32{sendQueue: &sent, receiveQueue: &received} {
			if failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue); failed != nil {
				return
			}
			var value int
			if value, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ); failed != nil {
				return
			}
			*number = uint32(value)
		}
		// Without a probe of the window, which 0 would send.
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, -1)
	})).To(Succeed())
	Expect(failed).NotTo(HaveOccurred())
	return sent, received
}

// checksum is that of a TCP segment without one between two addresses.
func checksum(from, to netip.Addr, segment []byte) uint16 {
	a, b := from.As4(), to.As4()
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(segment))
	for _, part := range [][]byte{a[:], b[:], segment} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
