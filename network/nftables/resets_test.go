package nftables_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/internal/node"
	"drayage.dev/network/kernel"
	"drayage.dev/network/netlab"
	"drayage.dev/network/spec"
)

// The kernel remembers a connection that a server reset, and with it where it went; a client that uses the
// port again must not be sent to a pod that is gone.
var _ = Describe("Connections that were reset", func() {
	It("lead no later one to a pod that is gone", func(ctx context.Context) {
		const service = "10.96.0.21:80"
		w := newWorld()
		client, _ := w.pod("client")
		// Few ports, so that each is used again and again.
		Expect(client.Do(func() error { return kernel.WriteSysctl("ipv4/ip_local_port_range", "40000 40999") })).To(Succeed())
		serve := func(name string, reset bool) netip.AddrPort {
			ns, address := w.pod(name)
			listener := listen(ns)
			go closeAll(listener, reset)
			return netip.AddrPortFrom(address.Addr(), 9090)
		}
		rude, polite := serve("rude", true), serve("polite", false)

		w.apply(spec.Changes{key(service, tcp): frontend(rude)})
		for range 500 {
			_ = ask(client, service)
		}
		w.apply(spec.Changes{key(service, tcp): frontend(polite)})
		// As long as a pod has after it was withdrawn, and more: it is the kernel's time that counts here.
		time.Sleep(1500 * time.Millisecond)
		Expect(w.pods.Remove(ctx, node.PodRef{SandboxID: "rude"})).To(Succeed())
		for range 2000 {
			Expect(ask(client, service)).To(Succeed())
		}
	})
})

// closeAll ends each connection after its first byte: by a reset, or as one should.
func closeAll(listener net.Listener, reset bool) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.ReadFull(conn, make([]byte, 1))
			if reset {
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			_ = conn.Close()
		}()
	}
}

func ask(from *netlab.Namespace, address string) error {
	conn, err := from.Dial("tcp", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadAll(conn)
	return err
}
