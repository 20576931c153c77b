//go:build cluster

package hosted_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/miekg/dns"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/test/cluster"
	"drayage.dev/test/images"
)

// What the machines pull. Every name leads to the one registry.
const (
	sandboxImage = "registry.example/host/sandbox:1"
	dnsImage     = "registry.example/host/coredns:1"
	// product is the image of `make image`, pushed with the tags first and second.
	product       = "registry.example/drayage/drayage"
	first, second = "v1", "v2"
)

// store is the registry of the control plane's machine.
type store struct{ *images.Registry }

func startStore(ctx context.Context, h *host) *store {
	GinkgoHelper()
	coredns, err := images.Program(cluster.Binary("coredns"))
	Expect(err).NotTo(HaveOccurred(), "run `make test-cluster`")
	drayage, err := tarball.ImageFromPath(cluster.Binary("drayage-image.tar"), nil)
	Expect(err).NotTo(HaveOccurred(), "run `make test-cluster`")
	return startPlainStore(ctx, h, images.Image{Name: "host/coredns:1", Image: coredns},
		images.Image{Name: "drayage/drayage:" + first, Image: drayage}, images.Image{Name: "drayage/drayage:" + second, Image: drayage})
}

// startPlainStore starts a registry of what applications and sandboxes are made of, and more.
func startPlainStore(ctx context.Context, h *host, more ...images.Image) *store {
	GinkgoHelper()
	built, err := images.Build(ctx)
	Expect(err).NotTo(HaveOccurred())
	for _, image := range built {
		if image.Name != "busybox:latest" {
			continue
		}
		file, err := image.ConfigFile()
		Expect(err).NotTo(HaveOccurred())
		config := file.Config
		config.Entrypoint, config.Cmd = []string{"/bin/sleep", "1000000"}, nil
		sandbox, err := mutate.Config(image, config)
		Expect(err).NotTo(HaveOccurred())
		built = append(built, images.Image{Name: "host/sandbox:1", Image: sandbox})
	}
	served, err := images.NewRegistry(ctx, append(built, more...))
	Expect(err).NotTo(HaveOccurred())
	listener, err := h.control.Listen("tcp", registry)
	Expect(err).NotTo(HaveOccurred())
	go func() { _ = served.Serve(listener) }()
	DeferCleanup(served.Close)
	return &store{served}
}

// mirror makes a containerd whose certs.d folder is dir pull everything from the registry.
func (s *store) mirror(dir string) {
	GinkgoHelper()
	Expect(os.MkdirAll(filepath.Join(dir, "_default"), 0o755)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "_default/hosts.toml"), []byte("server = \"http://"+registry+"\"\n[host.\"http://"+registry+"\"]\n  capabilities = [\"pull\", \"resolve\"]\n"), 0o644)).To(Succeed())
}

// startOutside starts what is not the cluster's: a web server that tells who asks it, and the machines' DNS.
func (h *host) startOutside() {
	GinkgoHelper()
	web, err := h.outside.Listen("tcp", outsideIP+":80")
	Expect(err).NotTo(HaveOccurred())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = w.Write([]byte("outside, asked by " + from))
	})}
	go func() { _ = server.Serve(web) }()
	DeferCleanup(server.Close)

	h.answerOutside("53", outsideName)
	h.answerOutside("5353", stubName)
}

// answerOutside starts a DNS server of the outside that knows the web server by one name.
func (h *host) answerOutside(port, name string) {
	GinkgoHelper()
	var socket net.PacketConn
	Expect(h.outside.Do(func() (err error) {
		socket, err = net.ListenPacket("udp", net.JoinHostPort(outsideIP, port))
		return err
	})).To(Succeed())
	names := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, request *dns.Msg) {
		answer := new(dns.Msg).SetReply(request)
		if question := request.Question[0]; question.Name != name {
			answer.Rcode = dns.RcodeNameError
		} else if question.Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.ParseIP(outsideIP)}}
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = names.ActivateAndServe() }()
	DeferCleanup(names.Shutdown)
}
