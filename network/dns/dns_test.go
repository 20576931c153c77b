package dns_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/internal/upstream"
	"drayage.dev/network/dns"
	"drayage.dev/test/env"
)

// outside is a name server of the world outside.
type outside struct {
	address string
	asked   atomic.Int32
	down    atomic.Bool
}

func newOutside() *outside {
	GinkgoHelper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	Expect(err).NotTo(HaveOccurred())
	o := &outside{address: packets.LocalAddr().String()}
	udp, tcp := &miekg.Server{PacketConn: packets, Handler: o}, &miekg.Server{Listener: streams, Handler: o}
	for _, server := range []*miekg.Server{udp, tcp} {
		go func() { _ = server.ActivateAndServe() }()
	}
	DeferCleanup(func() { _, _ = packets.Close(), streams.Close() })
	return o
}

func (o *outside) ServeDNS(w miekg.ResponseWriter, request *miekg.Msg) {
	o.asked.Add(1)
	reply := new(miekg.Msg)
	reply.SetReply(request)
	name := request.Question[0].Name
	add := func(text string) {
		record, err := miekg.NewRR(text)
		if err == nil {
			reply.Answer = append(reply.Answer, record)
		}
	}
	_, udp := w.LocalAddr().(*net.UDPAddr)
	switch {
	case o.down.Load():
		reply.Rcode = miekg.RcodeServerFailure
	case name == "example.com." && request.Question[0].Qtype == miekg.TypeA:
		add("example.com. 300 IN A 203.0.113.9")
	case name == "host.corp.test.":
		add("host.corp.test. 60 IN A 10.9.9.9")
	case name == "web.host.svc.cluster.local." && request.Question[0].Qtype == miekg.TypeA:
		add(name + " 5 IN A 10.200.0.7")
	case strings.HasSuffix(name, "user-service.shop.svc.cluster.local.") || name == "db-9.db.shop.svc.cluster.local.":
		add(name + " 5 IN A 10.200.0.8")
	case name == "large.example." && udp:
		reply.Truncated = true
	case name == "large.example.":
		for i := range 40 {
			add(fmt.Sprintf("large.example. 60 IN TXT \"%s%d\"", strings.Repeat("x", 100), i))
		}
	default:
		reply.Rcode = miekg.RcodeNameError
		soa, _ := miekg.NewRR("example. 60 IN SOA ns.example. host.example. 1 1 1 1 60")
		reply.Ns = []miekg.RR{soa}
	}
	_ = w.WriteMsg(reply)
}

var _ = Describe("dray-dns", Ordered, func() {
	var (
		ctx    context.Context
		api    client.Client
		cfg    dns.Config
		server string
		other  *outside
		// corporate answers for a stub domain.
		corporate *outside
		stop      func()
	)

	ask := func(name string, kind uint16, change ...func(*miekg.Msg, *miekg.Client)) *miekg.Msg {
		GinkgoHelper()
		request, c := new(miekg.Msg), &miekg.Client{Timeout: 30 * time.Second}
		request.SetQuestion(name, kind)
		for _, f := range change {
			f(request, c)
		}
		reply, _, err := c.Exchange(request, server)
		Expect(err).NotTo(HaveOccurred())
		return reply
	}
	over := func(network string) func(*miekg.Msg, *miekg.Client) {
		return func(_ *miekg.Msg, c *miekg.Client) { c.Net = network }
	}
	// texts are the records without times to live, sorted.
	texts := func(records []miekg.RR) []string {
		result := []string{}
		for _, record := range records {
			result = append(result, strings.TrimPrefix(record.String(), record.Header().String()))
		}
		slices.Sort(result)
		return result
	}
	answers := func(name string, kind uint16) func() []string {
		return func() []string { return texts(ask(name, kind).Answer) }
	}

	start := func() {
		GinkgoHelper()
		run, cancel := context.WithCancel(ctx)
		ready, done := make(chan struct{}), make(chan error, 1)
		cfg.Ready = func() { close(ready) }
		go func() { done <- dns.Run(run, cfg) }()
		Eventually(ready).Should(BeClosed())
		stop = func() {
			GinkgoHelper()
			cancel()
			Eventually(done).Should(Receive(BeNil()))
		}
	}
	service := func(name string, change func(*corev1.ServiceSpec)) {
		GinkgoHelper()
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		s.Spec.Ports = []corev1.ServicePort{{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP}}
		change(&s.Spec)
		Expect(api.Create(ctx, upstream.FromService(s))).To(Succeed())
	}

	BeforeAll(func() {
		ctx = context.Background()
		cp, err := env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(cp.Stop)
		api, err = cp.Client()
		Expect(err).NotTo(HaveOccurred())
		Expect(api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})).To(Succeed())
		other, corporate = newOutside(), newOutside()
		stub, err := dns.ParseStub("Corp.test=" + corporate.address)
		Expect(err).NotTo(HaveOccurred())
		free, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		server = free.Addr().String()
		Expect(free.Close()).To(Succeed())
		cfg = dns.Config{
			RESTConfig: cp.Config, Address: netip.MustParseAddr("127.0.0.1"), Port: netip.MustParseAddrPort(server).Port(),
			Ranges:    []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/16")},
			Upstreams: []string{other.address}, Stubs: []dns.Stub{stub, {Domain: "deep.corp.test.", Servers: []string{"127.0.0.1:1"}}}, SnapshotFile: filepath.Join(GinkgoT().TempDir(), "dns.json"),
		}
		service("user-service", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.20" })
		service("db", func(s *corev1.ServiceSpec) { s.ClusterIP = "None" })
		service("empty", func(s *corev1.ServiceSpec) { s.ClusterIP = "None" })
		service("out", func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.com" })
		service("in", func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "user-service.shop.svc.cluster.local"
		})
		service("loop", func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "loop.shop.svc.cluster.local"
		})
		service("early", func(s *corev1.ServiceSpec) { s.ClusterIP, s.PublishNotReadyAddresses = "None", true })
		service("plain", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.40"; s.Ports[0].Name = "" })
		early := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "early-1", Labels: map[string]string{discoveryv1.LabelServiceName: "early"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{
				// As upstream's controller writes them for publishNotReadyAddresses.
				{Addresses: []string{"10.244.1.8"}, Hostname: ptr.To("early-0"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(false)}},
			},
		}
		Expect(api.Create(ctx, upstream.FromEndpointSlice(early))).To(Succeed())
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("web"), Port: ptr.To[int32](5432), Protocol: ptr.To(corev1.ProtocolTCP)}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.244.1.5"}, Hostname: ptr.To("db-0")},
				{Addresses: []string{"10.244.1.6"}},
				{Addresses: []string{"10.244.1.7"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
			},
		}
		Expect(api.Create(ctx, upstream.FromEndpointSlice(slice))).To(Succeed())
		start()
		DeferCleanup(func() { stop() })
		Eventually(func() int { return ask("db.shop.svc.cluster.local.", miekg.TypeA).Rcode }).Should(Equal(miekg.RcodeSuccess))
	})

	DescribeTable("answers", func(name string, kind uint16, expected ...string) {
		for _, network := range []string{"udp", "tcp"} {
			reply := ask(name, kind, over(network))
			Expect(miekg.RcodeToString[reply.Rcode]).To(Equal("NOERROR"))
			Expect(texts(reply.Answer)).To(Equal(expected))
			Expect(reply.Authoritative).To(BeTrue())
		}
	},
		Entry("a service", "user-service.shop.svc.cluster.local.", miekg.TypeA, "10.96.0.20"),
		Entry("in any case", "USER-service.shop.SVC.cluster.local.", miekg.TypeA, "10.96.0.20"),
		Entry("a headless service", "db.shop.svc.cluster.local.", miekg.TypeA, "10.244.1.5", "10.244.1.6"),
		Entry("a named pod", "db-0.db.shop.svc.cluster.local.", miekg.TypeA, "10.244.1.5"),
		Entry("an unnamed pod", "10-244-1-6.db.shop.svc.cluster.local.", miekg.TypeA, "10.244.1.6"),
		Entry("a pod that is not ready, where that does not matter", "early.shop.svc.cluster.local.", miekg.TypeA, "10.244.1.8"),
		Entry("its name", "early-0.early.shop.svc.cluster.local.", miekg.TypeA, "10.244.1.8"),
		Entry("every port of a service", "user-service.shop.svc.cluster.local.", miekg.TypeSRV, "0 100 80 user-service.shop.svc.cluster.local."),
		Entry("a pod's address", "10-244-9-9.shop.pod.cluster.local.", miekg.TypeA, "10.244.9.9"),
		Entry("a port", "_web._tcp.user-service.shop.svc.cluster.local.", miekg.TypeSRV, "0 100 80 user-service.shop.svc.cluster.local."),
		Entry("a headless service's ports", "_web._tcp.db.shop.svc.cluster.local.", miekg.TypeSRV,
			"0 100 5432 10-244-1-6.db.shop.svc.cluster.local.", "0 100 5432 db-0.db.shop.svc.cluster.local."),
		Entry("a service's address", "20.0.96.10.in-addr.arpa.", miekg.TypePTR, "user-service.shop.svc.cluster.local."),
		Entry("a headless pod's address", "5.1.244.10.in-addr.arpa.", miekg.TypePTR, "db-0.db.shop.svc.cluster.local."),
		Entry("an external name", "out.shop.svc.cluster.local.", miekg.TypeA, "203.0.113.9", "example.com."),
		Entry("an external name within", "in.shop.svc.cluster.local.", miekg.TypeA, "10.96.0.20", "user-service.shop.svc.cluster.local."),
		Entry("an alias as such", "out.shop.svc.cluster.local.", miekg.TypeCNAME, "example.com."),
		Entry("the version", "dns-version.cluster.local.", miekg.TypeTXT, `"1.1.0"`),
		Entry("itself", "cluster.local.", miekg.TypeNS, "ns.dns.cluster.local."),
	)

	DescribeTable("says that there is nothing, and for how long", func(name string, kind uint16, code string) {
		reply := ask(name, kind)
		Expect(miekg.RcodeToString[reply.Rcode]).To(Equal(code))
		Expect(reply.Answer).To(BeEmpty())
		Expect(reply.Ns).To(HaveLen(1))
		Expect(reply.Ns[0].(*miekg.SOA).Minttl).To(Equal(uint32(5)))
	},
		Entry("no such service", "nobody.shop.svc.cluster.local.", miekg.TypeA, "NXDOMAIN"),
		Entry("no such pod", "x.db.shop.svc.cluster.local.", miekg.TypeA, "NXDOMAIN"),
		Entry("no such port", "_smtp._tcp.user-service.shop.svc.cluster.local.", miekg.TypeSRV, "NXDOMAIN"),
		Entry("a port without a name", "_._tcp.plain.shop.svc.cluster.local.", miekg.TypeSRV, "NXDOMAIN"),
		Entry("a pod's name that is no address", "web-0.shop.pod.cluster.local.", miekg.TypeA, "NXDOMAIN"),
		Entry("an endpoint's name below a service with an address", "db-0.user-service.shop.svc.cluster.local.", miekg.TypeA, "NXDOMAIN"),
		Entry("an alias's text", "user-service.shop.svc.cluster.local.", miekg.TypeTXT, "NOERROR"),
		Entry("an unready pod", "10-244-1-7.db.shop.svc.cluster.local.", miekg.TypeA, "NXDOMAIN"),
		Entry("a search path's guess", "example.com.shop.svc.cluster.local.", miekg.TypeA, "NXDOMAIN"),
		Entry("another", "example.com.cluster.local.", miekg.TypeA, "NXDOMAIN"),
		Entry("an address of the cluster's that is nobody's", "99.9.244.10.in-addr.arpa.", miekg.TypePTR, "NXDOMAIN"),
		Entry("no IPv6", "user-service.shop.svc.cluster.local.", miekg.TypeAAAA, "NOERROR"),
		Entry("no pods", "empty.shop.svc.cluster.local.", miekg.TypeA, "NOERROR"),
		Entry("a namespace", "shop.svc.cluster.local.", miekg.TypeA, "NOERROR"),
		Entry("the services", "svc.cluster.local.", miekg.TypeA, "NOERROR"),
	)

	It("adds the addresses behind ports, and ends loops of aliases", func() {
		Expect(texts(ask("_web._tcp.user-service.shop.svc.cluster.local.", miekg.TypeSRV).Extra)).To(ContainElement("10.96.0.20"))
		Expect(ask("loop.shop.svc.cluster.local.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeServerFailure))
	})

	It("finds the API server's own service", func() {
		Eventually(answers("kubernetes.default.svc.cluster.local.", miekg.TypeA)).Should(HaveLen(1))
	})

	It("asks others about other names, once", func() {
		Expect(answers("example.com.", miekg.TypeA)()).To(Equal([]string{"203.0.113.9"}))
		before := other.asked.Load()
		for range 5 {
			Expect(answers("example.com.", miekg.TypeA)()).To(Equal([]string{"203.0.113.9"}))
		}
		Expect(other.asked.Load()).To(Equal(before))
		Expect(ask("nowhere.example.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeNameError))
		before = other.asked.Load()
		Expect(ask("nowhere.example.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeNameError))
		Expect(other.asked.Load()).To(Equal(before), "kept although negative")
		other.down.Store(true)
		Expect(ask("later.example.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeServerFailure))
		other.down.Store(false)
		Eventually(func() int { return ask("later.example.", miekg.TypeA).Rcode }).Should(Equal(miekg.RcodeNameError))
	})

	It("asks those of a stub domain about its names", func() {
		before := other.asked.Load()
		Expect(answers("HOST.corp.test.", miekg.TypeA)()).To(Equal([]string{"10.9.9.9"}))
		Expect(ask("nobody.corp.test.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeNameError))
		Expect(other.asked.Load()).To(Equal(before))
		Expect(corporate.asked.Load()).To(BeNumerically(">=", 2), "a busy machine asks again")
		Expect(ask("host.deep.corp.test.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeServerFailure), "the deeper domain's servers, who are away")
		Expect(ask("host.notcorp.test.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeNameError))
		Expect(other.asked.Load()).To(BeNumerically(">", before))
	})

	DescribeTable("refuses a stub domain", func(text, message string) {
		_, err := dns.ParseStub(text)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("without servers", "corp.test", "want domain=address"),
		Entry("without a domain", "=192.0.2.1", "want domain=address"),
		Entry("with a name for a server", "corp.test=ns.corp.test", `"ns.corp.test" is no address`),
	)

	It("cuts answers to what the client takes", func() {
		small := ask("large.example.", miekg.TypeTXT)
		Expect(small.Truncated).To(BeTrue())
		larger := ask("large.example.", miekg.TypeTXT, func(m *miekg.Msg, c *miekg.Client) {
			m.SetEdns0(1232, false)
			c.UDPSize = 1232
		})
		Expect(larger.Truncated).To(BeTrue())
		Expect(len(larger.Answer)).To(BeNumerically(">", len(small.Answer)))
		Expect(larger.IsEdns0()).NotTo(BeNil())
		Expect(ask("large.example.", miekg.TypeTXT, over("tcp")).Answer).To(HaveLen(40))
	})

	It("follows changes", func() {
		service("late", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.30" })
		Eventually(answers("late.shop.svc.cluster.local.", miekg.TypeA)).Should(Equal([]string{"10.96.0.30"}))
		late := upstream.FromService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "late"}})
		Expect(api.Delete(ctx, late)).To(Succeed())
		Eventually(func() int { return ask("late.shop.svc.cluster.local.", miekg.TypeA).Rcode }).Should(Equal(miekg.RcodeNameError))
	})

	It("asks the host cluster's servers for names of the domain that it does not have, when they are shared", func() {
		const theirs = "web.host.svc.cluster.local."
		Expect(ask(theirs, miekg.TypeA).Rcode).To(Equal(miekg.RcodeNameError), "the domain is its own")
		stop()
		cfg.Shared = true
		start()
		Eventually(answers(theirs, miekg.TypeA)).Should(Equal([]string{"10.200.0.7"}))
		Expect(ask(theirs, miekg.TypeA).Authoritative).To(BeFalse())
		Expect(ask("nowhere.host.svc.cluster.local.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeNameError))

		By("having the last word about names that both have")
		Expect(answers("user-service.shop.svc.cluster.local.", miekg.TypeA)()).To(Equal([]string{"10.96.0.20"}))
		Expect(ask("user-service.shop.svc.cluster.local.", miekg.TypeAAAA).Answer).To(BeEmpty())
		Expect(ask("db-9.db.shop.svc.cluster.local.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeNameError))
		service("to-host", func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "web.host.svc.cluster.local"
		})
		Eventually(answers("to-host.shop.svc.cluster.local.", miekg.TypeA)).Should(Equal([]string{"10.200.0.7", "web.host.svc.cluster.local."}))
		stop()
		cfg.Shared = false
		start()
	})

	It("starts from its snapshot while the API is away, and knows nothing without one", func() {
		stop()
		reachable := cfg.RESTConfig
		cfg.RESTConfig = rest("https://127.0.0.1:1")
		start()
		Expect(answers("user-service.shop.svc.cluster.local.", miekg.TypeA)()).To(Equal([]string{"10.96.0.20"}))
		Expect(answers("db-0.db.shop.svc.cluster.local.", miekg.TypeA)()).To(Equal([]string{"10.244.1.5"}))
		stop()
		snapshot := cfg.SnapshotFile
		cfg.SnapshotFile = ""
		start()
		Expect(ask("user-service.shop.svc.cluster.local.", miekg.TypeA).Rcode).To(Equal(miekg.RcodeServerFailure))
		Expect(answers("example.com.", miekg.TypeA)()).To(Equal([]string{"203.0.113.9"}), "the rest works")
		stop()

		By("forgetting what went while it was away")
		gone := upstream.FromService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "user-service"}})
		Expect(api.Delete(ctx, gone)).To(Succeed())
		cfg.RESTConfig, cfg.SnapshotFile = reachable, snapshot
		start()
		Eventually(func() int { return ask("user-service.shop.svc.cluster.local.", miekg.TypeA).Rcode }).Should(Equal(miekg.RcodeNameError))
	})
})
