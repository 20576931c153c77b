package apiserver_test

import (
	"io"
	"net"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// relay gives a server that moves one address.
type relay struct {
	listener net.Listener

	mu     sync.Mutex
	target string
}

// newRelay starts a relay to the server at host that stops with the spec.
func newRelay(host string) *relay {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(listener.Close)
	r := &relay{listener: listener}
	r.To(host)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go r.serve(conn)
		}
	}()
	return r
}

// URL is where clients connect.
func (r *relay) URL() string { return "https://" + r.listener.Addr().String() }

// To sends new connections to the server at host.
func (r *relay) To(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = strings.TrimPrefix(host, "https://")
}

func (r *relay) serve(conn net.Conn) {
	defer conn.Close()
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, conn)
		_ = server.Close()
	}()
	_, _ = io.Copy(conn, server)
}
