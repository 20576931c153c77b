package nftables_test

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/network/netlab"
	"drayage.dev/network/spec"
)

var _ = Describe("Traffic", func() {
	const service = "10.96.0.20:80"

	It("spreads connections of pods and the node over the slots, TCP and UDP", func() {
		w := newWorld()
		client, _ := w.pod("client")
		_, one := w.pod("one")
		_, two := w.pod("two")
		w.apply(spec.Changes{
			key(service, tcp): frontend(one, two),
			key(service, udp): frontend(one, two),
		})
		for _, network := range []string{"tcp", "udp"} {
			for _, from := range []*netlab.Namespace{client, w.Namespace} {
				count := answers(from, network, service, 40)
				Expect(count["one"] + count["two"]).To(Equal(40))
				Expect(count["one"]).To(BeNumerically(">", 4))
				Expect(count["two"]).To(BeNumerically(">", 4))
			}
		}
		By("keeping the client's address")
		_, source, err := client.Ask("tcp", service)
		Expect(err).NotTo(HaveOccurred())
		Expect(source).To(HavePrefix("10.244.3."))
		_, source, err = w.Ask("tcp", service)
		Expect(err).NotTo(HaveOccurred())
		Expect(source).To(Equal(w.Address.String()))
	})

	It("chooses a group by its share first, whatever the number of its endpoints", func() {
		w := newWorld()
		client, _ := w.pod("client")
		_, one := w.pod("one")
		_, two := w.pod("two")
		_, three := w.pod("three")
		f := frontend(one, two, three)
		f.Slots, f.Groups = nil, []spec.Group{
			{Share: 900, Slots: []netip.AddrPort{one}}, {Share: 100, Slots: []netip.AddrPort{two, three}},
		}
		w.apply(spec.Changes{key(service, tcp): f, key(service, udp): f})
		const n = 2000
		for _, from := range []*netlab.Namespace{w.Namespace, client} {
			count := answers(from, "tcp", service, n)
			AddReportEntry("shares of a thousand, 900 and 100 wanted", fmt.Sprint(count["one"]*1000/n, " ", (count["two"]+count["three"])*1000/n))
			// Five standard deviations of a binomial distribution: 67.
			Expect(count["one"]).To(BeNumerically("~", n*9/10, 67))
			Expect(count["two"]).To(BeNumerically("~", n/20, 50))
		}
		Expect(answers(client, "udp", service, 100)["one"]).To(BeNumerically(">", 70))

		By("with affinity")
		sticky := *f
		sticky.Affinity = time.Minute
		w.apply(spec.Changes{key(service, tcp): &sticky})
		first, _, err := client.Ask("tcp", service)
		Expect(err).NotTo(HaveOccurred())
		Expect(answers(client, "tcp", service, 50)).To(Equal(map[string]int{first: 50}))

		By("moving the shares")
		f = &spec.Frontend{Local: f.Local}
		f.Groups = []spec.Group{{Share: 1, Slots: []netip.AddrPort{one}}, {Share: 999, Slots: []netip.AddrPort{two}}}
		w.apply(spec.Changes{key(service, tcp): f})
		Expect(answers(client, "tcp", service, 200)["two"]).To(BeNumerically(">", 190))
	})

	It("gives clients on the node other endpoints than all others", func() {
		w := newWorld()
		client, clientAddress := w.pod("client")
		_, one := w.pod("one")
		_, two := w.pod("two")
		nodePort := w.Address.String() + ":30080"
		w.apply(spec.Changes{key(nodePort, tcp): frontend(one), within(key(nodePort, tcp)): frontend(one, two)})
		name, source, err := w.Outside.Ask("tcp", nodePort)
		Expect(err).NotTo(HaveOccurred())
		Expect([]string{name, source}).To(Equal([]string{"one", w.OutsideAddress.String()}), "the client's own address")
		Expect(answers(w.Outside, "tcp", nodePort, 20)).To(Equal(map[string]int{"one": 20}))
		for _, from := range []*netlab.Namespace{client, w.Namespace} {
			Expect(answers(from, "tcp", nodePort, 40)).To(And(HaveLen(2), HaveKey("one"), HaveKey("two")))
		}
		_, source, err = client.Ask("tcp", nodePort)
		Expect(err).NotTo(HaveOccurred())
		Expect(source).To(Equal(clientAddress.Addr().String()))

		By("leaving the others without answer")
		w.apply(spec.Changes{key(nodePort, tcp): {Drop: true}})
		_, err = w.Outside.Dial("tcp", nodePort, 300*time.Millisecond)
		Expect(err).To(MatchError(ContainSubstring("i/o timeout")))
		Expect(answers(w.Namespace, "tcp", nodePort, 20)).To(HaveLen(2))
	})

	It("serves the sources only that may come", func() {
		w := newWorld()
		client, clientAddress := w.pod("client")
		_, one := w.pod("one")
		balancer, plain := w.Address.String()+":80", w.Address.String()+":30080"
		f := frontend(one)
		f.Sources = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.PrefixFrom(w.OutsideAddress, 32)}
		w.apply(spec.Changes{key(balancer, tcp): f, key(plain, tcp): frontend(one)})
		refused := func(from *netlab.Namespace) {
			GinkgoHelper()
			_, err := from.Dial("tcp", balancer, 300*time.Millisecond)
			Expect(err).To(HaveOccurred())
			Expect(answers(from, "tcp", plain, 1)).To(HaveLen(1), "the other port is open")
		}
		Expect(answers(w.Outside, "tcp", balancer, 3)).To(HaveLen(1))
		refused(client)
		refused(w.Namespace)
		By("for other sources")
		f = frontend(one)
		f.Sources = []netip.Prefix{netip.PrefixFrom(clientAddress.Addr(), 32), netip.MustParsePrefix("192.0.2.0/31")}
		w.apply(spec.Changes{key(balancer, tcp): f})
		refused(w.Outside)
		Expect(answers(client, "tcp", balancer, 3)).To(HaveLen(1))
		Expect(answers(w.Namespace, "tcp", balancer, 3)).To(HaveLen(1))
	})

	It("lets a pod reach itself", func() {
		w := newWorld()
		pod, address := w.pod("self")
		w.apply(spec.Changes{key(service, tcp): frontend(address), key(service, udp): frontend(address)})
		for _, network := range []string{"tcp", "udp"} {
			name, source, err := pod.Ask(network, service)
			Expect(err).NotTo(HaveOccurred())
			Expect(name).To(Equal("self"))
			Expect(source).To(Equal(w.Address.String()), "a source other than itself")
		}
	})

	It("refuses connections to a service without endpoints at once", func() {
		w := newWorld()
		pod, _ := w.pod("client")
		w.apply(spec.Changes{
			key(service, tcp): {}, key(service, udp): {},
			key(w.Address.String()+":30080", tcp): {Masquerade: true},
		})
		for _, from := range []*netlab.Namespace{pod, w.Namespace} {
			_, err := from.Dial("tcp", service, patience)
			Expect(err).To(MatchError(syscall.ECONNREFUSED))
			_, _, err = from.Ask("udp", service)
			Expect(err).To(Or(MatchError(syscall.ECONNREFUSED), MatchError(syscall.EPERM)))
		}
		_, err := w.Outside.Dial("tcp", w.Address.String()+":30080", patience)
		Expect(err).To(MatchError(syscall.ECONNREFUSED))
	})

	It("serves node ports from outside, the node and pods", func() {
		w := newWorld()
		pod, address := w.pod("web")
		nodePort := w.Address.String() + ":30080"
		f := frontend(address)
		f.Masquerade = true
		w.apply(spec.Changes{key(nodePort, tcp): f, key(nodePort, udp): f})
		for _, network := range []string{"tcp", "udp"} {
			for _, from := range []*netlab.Namespace{w.Outside, w.Namespace, pod} {
				name, source, err := from.Ask(network, nodePort)
				Expect(err).NotTo(HaveOccurred())
				Expect(name).To(Equal("web"))
				Expect(source).To(Equal(w.Address.String()), "masqueraded")
			}
		}
	})

	It("leads pods and the node to what serves on the node itself, as the API server may", func() {
		w := newWorld()
		pod, _ := w.pod("client")
		server, err := w.Serve(w.Address.String()+":6443", "api")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(server.Close)
		endpoint := netip.AddrPortFrom(w.Address, 6443)
		w.apply(spec.Changes{key("10.96.0.1:443", tcp): {Slots: []netip.AddrPort{endpoint}}})
		for _, from := range []*netlab.Namespace{pod, w.Namespace} {
			Expect(answers(from, "tcp", "10.96.0.1:443", 3)).To(Equal(map[string]int{"api": 3}))
		}
	})

	It("sends a client back to where it was until that is gone", func() {
		w := newWorld()
		client, _ := w.pod("client")
		_, one := w.pod("one")
		_, two := w.pod("two")
		_, three := w.pod("three")
		affinity := time.Hour
		sticky := func(slots ...netip.AddrPort) *spec.Frontend {
			f := frontend(slots...)
			f.Affinity = affinity
			return f
		}
		w.apply(spec.Changes{key(service, tcp): sticky(one, two, three)})
		first, _, err := client.Ask("tcp", service)
		Expect(err).NotTo(HaveOccurred())
		Expect(answers(client, "tcp", service, 30)).To(Equal(map[string]int{first: 30}))

		By("taking its endpoint away")
		all := map[string]netip.AddrPort{"one": one, "two": two, "three": three}
		delete(all, first)
		var rest []netip.AddrPort
		for _, endpoint := range all {
			rest = append(rest, endpoint)
		}
		w.apply(spec.Changes{key(service, tcp): sticky(rest...)})
		second, _, err := client.Ask("tcp", service)
		Expect(err).NotTo(HaveOccurred())
		Expect(second).NotTo(Equal(first))
		Expect(answers(client, "tcp", service, 30)).To(Equal(map[string]int{second: 30}))

		By("giving it back")
		w.apply(spec.Changes{key(service, tcp): sticky(one, two, three)})
		Expect(answers(client, "tcp", service, 30)).To(Equal(map[string]int{second: 30}))

		By("forgetting after the timeout")
		affinity = 2 * time.Second
		w.apply(spec.Changes{key(service, tcp): sticky(one, two, three)})
		Eventually(func() map[string]int { return answers(client, "tcp", service, 1) }).
			WithPolling(2100 * time.Millisecond).ShouldNot(HaveKey(second))
	})

	It("moves UDP flows of the node's clients, who have endpoints of their own, and leaves others' alone", func() {
		w := newWorld()
		client, _ := w.pod("client")
		_, one := w.pod("one")
		_, two := w.pod("two")
		target := w.Address.String() + ":30053"
		w.apply(spec.Changes{key(target, udp): frontend(one), within(key(target, udp)): frontend(one)})
		ask := func(conn net.Conn) string {
			GinkgoHelper()
			name, _, err := netlab.AskOn(conn)
			Expect(err).NotTo(HaveOccurred())
			return name
		}
		near, err := client.Dial("udp", target, patience)
		Expect(err).NotTo(HaveOccurred())
		defer near.Close()
		far, err := w.Outside.Dial("udp", target, patience)
		Expect(err).NotTo(HaveOccurred())
		defer far.Close()
		Expect([]string{ask(near), ask(far)}).To(Equal([]string{"one", "one"}))
		w.apply(spec.Changes{within(key(target, udp)): frontend(two), key(target, udp): frontend(two)})
		Expect([]string{ask(near), ask(far)}).To(Equal([]string{"two", "two"}))
		By("taking the address of the node's clients away")
		w.apply(spec.Changes{within(key(target, udp)): nil})
		Expect([]string{ask(near), ask(far)}).To(Equal([]string{"two", "two"}))
	})

	It("moves UDP flows off an endpoint that is gone, and leaves TCP connections alone", func() {
		w := newWorld()
		client, _ := w.pod("client")
		_, one := w.pod("one")
		_, two := w.pod("two")
		w.apply(spec.Changes{key(service, tcp): frontend(one), key(service, udp): frontend(one)})
		flow, err := client.Dial("udp", service, patience)
		Expect(err).NotTo(HaveOccurred())
		defer flow.Close()
		stream, err := client.Dial("tcp", service, patience)
		Expect(err).NotTo(HaveOccurred())
		defer stream.Close()
		ask := func(network string) string {
			GinkgoHelper()
			conn := map[string]interface{ Ask() (string, error) }{"udp": asker{flow}, "tcp": asker{stream}}[network]
			name, err := conn.Ask()
			Expect(err).NotTo(HaveOccurred())
			return name
		}
		Expect(ask("udp")).To(Equal("one"))
		Expect(ask("tcp")).To(Equal("one"))
		w.apply(spec.Changes{key(service, tcp): frontend(two), key(service, udp): frontend(two)})
		Expect(ask("udp")).To(Equal("two"))
		Expect(ask("tcp")).To(Equal("one"))

		By("removing the UDP service while nobody follows")
		_, err = w.open().Sync(spec.Changes{key(service, tcp): frontend(two)})
		Expect(err).NotTo(HaveOccurred())
		_, err = asker{flow}.Ask()
		Expect(err).To(HaveOccurred())

		By("removing the service")
		_, err = w.table.Sync(spec.Changes{key(service, tcp): frontend(two)})
		Expect(err).NotTo(HaveOccurred())
		w.apply(spec.Changes{key(service, tcp): nil, key(service, udp): nil})
		_, err = client.Dial("tcp", service, patience)
		Expect(err).To(MatchError(syscall.EHOSTUNREACH))
	})
})
