package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"drayage.dev/network/netlab"
	"drayage.dev/test/cluster"
)

const (
	coreDNS kind = "coredns"
	// askers is how many clients ask at once when queries are counted; floodTime is how long they do.
	askers, floodTime = 16, 2 * time.Second
	// askAgain is when a client repeats a question, dnsTries how often.
	askAgain, dnsTries = time.Second, 5
)

var dnsClients = netip.MustParsePrefix("10.77.0.20/24")

// corefile is what kubeadm writes, without what does not concern the cluster's names.
const corefile = `.:53 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig %s
        pods insecure
        ttl 30
    }
    cache 30
}
`

// questions is one kind of names that are asked for: of each, what the answer must be.
type questions struct {
	what  string
	name  func(n int) string
	count int
	rcode int
}

// dnsQuestions are names of services with an address, of headless ones, and what a pod's resolver asks first for a name of
// the outside (ndots:5): the name below each domain of the pod's search list, of which there is none.
func dnsQuestions(l *load) []questions {
	const domain = ".default.svc.cluster.local."
	search := []string{domain, ".svc.cluster.local.", ".cluster.local."}
	return []questions{
		{"service", func(n int) string { return name(n) + domain }, l.size, dns.RcodeSuccess},
		{"headless", func(n int) string { return headlessName(n) + domain }, headlessServices, dns.RcodeSuccess},
		{"search-list", func(n int) string { return fmt.Sprintf("host-%d.example.com%s", n/len(search), search[n%len(search)]) },
			l.size * len(search), dns.RcodeNameError},
	}
}

// compareDNS measures answers by our DNS server and by CoreDNS, about the same services.
func compareDNS(ctx context.Context, h *host, l *load, o options, results *report) (err error) {
	if err := l.makeHeadless(ctx); err != nil {
		return err
	}
	clients, err := h.fabric.Share(dnsClients, fabricAddress.Addr())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clients.Delete()) }()
	var both [2]*nameServer
	for i, kind := range []kind{drayage, coreDNS} {
		progress("starting %s", kind)
		s, err := newNameServer(h, kind, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(10 + i)}), 24))
		if s != nil {
			defer func() { err = errors.Join(err, s.close()) }()
		}
		if err != nil {
			return err
		}
		s.clients = clients
		if err := s.start(ctx, dnsQuestions(l)); err != nil {
			return err
		}
		both[i] = s
	}
	for _, q := range dnsQuestions(l) {
		progress("asking for names: %s", q.what)
		if err := compareAnswers(both, q, o, results); err != nil {
			return fmt.Errorf("%s: %w", q.what, err)
		}
	}
	var peak [2]float64
	for i, s := range both {
		if peak[i], err = s.peak(); err != nil {
			return err
		}
	}
	results.add("dns/peak-rss", "MiB", peak[0], peak[1])
	return nil
}

// compareAnswers asks one kind of questions, the servers in turns.
func compareAnswers(both [2]*nameServer, q questions, o options, results *report) error {
	var took [2][]time.Duration
	var rate, cpu [2][]float64
	for len(took[0]) < o.queries {
		for i, s := range both {
			some, err := s.ask(q, func(asked int) bool { return asked < batch })
			if err != nil {
				return err
			}
			took[i] = append(took[i], some...)
		}
	}
	for range o.rounds {
		for i, s := range both {
			perSecond, each, err := s.flood(q)
			if err != nil {
				return err
			}
			rate[i], cpu[i] = append(rate[i], perSecond), append(cpu[i], each)
		}
	}
	for _, p := range []int{50, 99} {
		results.add(fmt.Sprintf("dns/%s/p%d", q.what, p), "us per answer, one client", microseconds(percentile(took[0], p)), microseconds(percentile(took[1], p)))
	}
	median := func(figures []float64) float64 { return slices.Sorted(slices.Values(figures))[len(figures)/2] }
	results.addMore("dns/"+q.what+"/rate", fmt.Sprintf("answers/s, %d clients", askers), median(rate[0]), median(rate[1]))
	results.add("dns/"+q.what+"/cpu", "us CPU of the server per answer", median(cpu[0]), median(cpu[1]))
	return nil
}

// nameServer is a DNS server in a node of its own.
type nameServer struct {
	subject
	node, clients *netlab.Namespace
	address       string
}

func newNameServer(h *host, of kind, at netip.Prefix) (*nameServer, error) {
	s := &nameServer{subject: subject{kind: of, dir: filepath.Join(h.dir, "dns-"+string(of))}, address: netip.AddrPortFrom(at.Addr(), 53).String()}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return s, err
	}
	var err error
	if s.node, err = h.fabric.Share(at, fabricAddress.Addr()); err != nil {
		return s, err
	}
	// The outside is never asked; the snapshot is written as on a node.
	argv := []string{cluster.Binary("dray-dns"), "--kubeconfig=" + h.kubeconfig, "--bind-address=" + at.Addr().String(), "--listen-address=",
		"--upstreams=127.0.0.1:1", "--snapshot-file=" + filepath.Join(s.dir, "snapshot.json")}
	if of == coreDNS {
		file := filepath.Join(s.dir, "Corefile")
		if err := os.WriteFile(file, fmt.Appendf(nil, corefile, h.kubeconfig), 0o600); err != nil {
			return s, err
		}
		argv = []string{cluster.Binary("coredns"), "-conf", file}
	}
	s.process = cluster.NewProcess(string(of), filepath.Join(s.dir, "log"), append([]string{"nsenter", "--net=" + s.node.Path}, argv...)...)
	return s, nil
}

// start starts the server and returns when it knows all names.
func (s *nameServer) start(ctx context.Context, all []questions) error {
	begun := time.Now()
	if err := s.process.Start(); err != nil {
		return err
	}
	for _, q := range all {
		last := q
		last.name, last.count = func(int) string { return q.name(q.count - 1) }, 1
		for {
			_, err := s.ask(last, func(asked int) bool { return asked < 1 })
			if err == nil {
				break
			}
			if ctx.Err() != nil || time.Since(begun) > syncTimeout || !s.process.Running() {
				return fmt.Errorf("waiting for %s to answer: %w: %s", s.kind, err, s.process.Tail(5))
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	_, err := s.settle(ctx)
	return err
}

// ask asks random questions, one after the other, for as long as more says so of their number.
func (s *nameServer) ask(q questions, more func(asked int) bool) (took []time.Duration, err error) {
	conn, err := s.clients.Dial("udp", s.address, time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer := make([]byte, dns.MaxMsgSize)
	for more(len(took)) {
		request, err := new(dns.Msg).SetQuestion(q.name(rand.IntN(q.count)), dns.TypeA).Pack()
		if err != nil {
			return took, err
		}
		begun := time.Now()
		if err := exchange(conn, request, answer, q.rcode); err != nil {
			return took, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}

// exchange asks until there is an answer, and looks at its head.
func exchange(conn net.Conn, request, answer []byte, rcode int) error {
	var last error
	for range dnsTries {
		if _, err := conn.Write(request); err != nil {
			last = err
			time.Sleep(10 * time.Millisecond) // nobody listens yet
			continue
		}
		if err := conn.SetReadDeadline(time.Now().Add(askAgain)); err != nil {
			return err
		}
		n, err := conn.Read(answer)
		for err == nil && (n < 12 || binary.BigEndian.Uint16(answer) != binary.BigEndian.Uint16(request)) {
			n, err = conn.Read(answer) // the answer to a question that was repeated
		}
		if err != nil {
			last = err
			continue
		}
		got, records := int(answer[3]&0xf), binary.BigEndian.Uint16(answer[6:])
		if got != rcode || (records > 0) != (rcode == dns.RcodeSuccess) {
			return fmt.Errorf("the answer is %s with %d records", dns.RcodeToString[got], records)
		}
		return nil
	}
	return last
}

// flood has many clients ask at once, and returns how many answers there were a second and what each cost the server in
// microseconds of processor time.
func (s *nameServer) flood(q questions) (rate, cost float64, err error) {
	before, err := s.cpu()
	if err != nil {
		return 0, 0, err
	}
	var mu sync.Mutex
	var done sync.WaitGroup
	total, begun := 0, time.Now()
	for range askers {
		done.Go(func() {
			took, failed := s.ask(q, func(int) bool { return time.Since(begun) < floodTime })
			mu.Lock()
			defer mu.Unlock()
			total, err = total+len(took), errors.Join(err, failed)
		})
	}
	done.Wait()
	elapsed := time.Since(begun)
	after, failed := s.cpu()
	if err := errors.Join(err, failed); err != nil {
		return 0, 0, err
	}
	return float64(total) / elapsed.Seconds(), microseconds(after-before) / float64(total), nil
}

func (s *nameServer) close() error {
	err := s.subject.close()
	if s.node != nil {
		err = errors.Join(err, s.node.Delete())
	}
	return err
}
