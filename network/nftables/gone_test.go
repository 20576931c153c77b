package nftables_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/internal/node"
	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
	"drayage.dev/network/spec"
)

// What a client began while a pod was there must not end at the pod's closed door.
var _ = Describe("A connection to a pod that goes", func() {
	const service = "10.96.0.22:80"

	It("begins anew elsewhere when the pod has not answered it", func(ctx context.Context) {
		w := newWorld()
		client, _ := w.pod("client")
		deaf, going := w.pod("deaf")
		_, staying := w.pod("staying")
		w.apply(spec.Changes{key(service, tcp): frontend(going)})

		By("losing its first packet on the way to the pod")
		ignore(deaf.Path)
		name := make(chan string, 1)
		go func() {
			defer GinkgoRecover()
			name <- askPatiently(client.Dial, service)
		}()
		Eventually(func() string { return w.conntrack("-L", "-p", "tcp") }).Should(ContainSubstring("SYN_SENT"))

		By("withdrawing the pod and taking it away")
		w.apply(spec.Changes{key(service, tcp): frontend(staying)})
		Expect(w.table.Forget()).To(Succeed())
		Expect(w.pods.Remove(ctx, node.PodRef{SandboxID: "deaf"})).To(Succeed())
		Eventually(name).Should(Receive(Equal("staying")))
	})

	It("goes on when the pod has answered it", func() {
		w := newWorld()
		client, _ := w.pod("client")
		_, going := w.pod("going")
		_, staying := w.pod("staying")
		w.apply(spec.Changes{key(service, tcp): frontend(going)})
		conn, err := client.Dial("tcp", service, patience)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		w.apply(spec.Changes{key(service, tcp): frontend(staying)})
		Expect(w.table.Forget()).To(Succeed())
		name, _, err := netlab.AskOn(conn)
		Expect(err).NotTo(HaveOccurred())
		Expect(name).To(Equal("going"))
	})

	DescribeTable("is tried again when the kernel remembers the port's last connection, which was reset",
		func(leave func(*world) (netip.AddrPort, func())) {
			w := newWorld()
			client, _ := w.pod("client")
			_, staying := w.pod("staying")
			rude, remove := leave(w)
			w.apply(spec.Changes{key(service, tcp): frontend(rude)})
			from := func(network, addr string, timeout time.Duration) (conn net.Conn, err error) {
				err = client.Do(func() error {
					dialer := net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{Port: 40123}, Control: reuse}
					conn, err = dialer.Dial(network, addr)
					return err
				})
				return conn, err
			}
			conn, err := from("tcp", service, patience)
			Expect(err).NotTo(HaveOccurred())
			_, _ = conn.Write([]byte("x"))
			_, err = conn.Read(make([]byte, 1))
			Expect(err).To(MatchError(syscall.ECONNRESET))
			Expect(conn.Close()).To(Succeed())

			w.apply(spec.Changes{key(service, tcp): frontend(staying)})
			Expect(w.table.Forget()).To(Succeed())
			remove()
			Expect(askPatiently(from, service)).To(Equal("staying"))
		},
		Entry("by a pod of this node", func(w *world) (netip.AddrPort, func()) {
			ns, address := w.pod("rude")
			return beRude(ns, address.Addr()), func() {
				Expect(w.pods.Remove(context.Background(), node.PodRef{SandboxID: "rude"})).To(Succeed())
			}
		}),
		Entry("by a pod of another node", func(w *world) (netip.AddrPort, func()) {
			run := func(path string, args ...string) {
				GinkgoHelper()
				out, err := exec.Command("nsenter", append([]string{"--net=" + path, "ip"}, args...)...).CombinedOutput()
				Expect(err).NotTo(HaveOccurred(), string(out))
			}
			there := netip.MustParseAddr("10.244.9.9")
			run(w.Outside.Path, "address", "add", there.String()+"/32", "dev", "lo")
			run(w.Outside.Path, "route", "add", "10.244.3.0/24", "via", w.Address.String())
			run(w.Path, "route", "add", there.String()+"/32", "via", w.OutsideAddress.String())
			Expect(w.Outside.Do(func() error { return kernel.WriteSysctl("ipv4/ip_forward", "1") })).To(Succeed())
			return beRude(w.Outside, there), func() {
				run(w.Outside.Path, "address", "del", there.String()+"/32", "dev", "lo")
				run(w.Outside.Path, "route", "add", "unreachable", there.String()+"/32")
			}
		}),
	)
})

// beRude serves at the address and resets every connection.
func beRude(ns *netlab.Namespace, address netip.Addr) netip.AddrPort {
	GinkgoHelper()
	listener := listen(ns)
	go closeAll(listener, true)
	return netip.AddrPortFrom(address, 9090)
}

// ignore drops whatever comes for the pod's port.
func ignore(path string) {
	GinkgoHelper()
	out, err := exec.Command("nsenter", "--net="+path, "nft",
		"add table ip deaf; add chain ip deaf in { type filter hook input priority 0; }; add rule ip deaf in tcp dport 8080 drop").CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(out))
}

// conntrack runs the tool of the name on the node.
func (w *world) conntrack(args ...string) string {
	GinkgoHelper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + w.Path, "conntrack"}, args...)...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(out))
	return string(out)
}

func askPatiently(dial func(network, addr string, timeout time.Duration) (net.Conn, error), service string) string {
	GinkgoHelper()
	conn, err := dial("tcp", service, patience)
	Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	name, _, err := netlab.AskOn(conn)
	Expect(err).NotTo(HaveOccurred())
	return name
}

func reuse(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	})
	return errors.Join(err, failed)
}
