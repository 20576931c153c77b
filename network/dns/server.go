package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/miekg/dns"
	"k8s.io/client-go/rest"

	"drayage.dev/network/watch"
)

const (
	// defaultTTL is short, as everything about services may change at any time.
	defaultTTL = 5 * time.Second
	// maxRequests bounds the requests in hand; a client asks again what is dropped beyond.
	maxRequests = 4096
	// maxChain bounds how many external names in a row are followed.
	maxChain = 8
	// idle is how long a TCP connection may wait for its next question.
	idle = 10 * time.Second
)

// Config says where to listen and what to answer.
type Config struct {
	// RESTConfig is the node's way to the API.
	RESTConfig *rest.Config
	// Address is the cluster's DNS address; the server makes it the node's own, unless it is already.
	Address netip.Addr
	// Port is 53 when it is 0.
	Port uint16
	// Domain is the cluster's; empty means "cluster.local".
	Domain string
	// Ranges are the cluster's pod and service ranges: reverse names in them are asked of nobody else.
	Ranges []netip.Prefix
	// Upstreams are the name servers for all other names (host or host:port). Without any, those of
	// ResolvConf are asked, which is read again when it changes.
	Upstreams  []string
	ResolvConf string
	// Stubs are domains that other servers answer for.
	Stubs []Stub
	// Shared says that the other name servers have names in Domain, too, as those of a cluster have that
	// Drayage is installed in: they are asked for what Drayage does not have. Of a name that both have,
	// Drayage's is the answer.
	Shared bool
	// SnapshotFile keeps what the API said last, for a start while the API is away; empty means none.
	SnapshotFile string
	// TTL is the records' time to live, in whole seconds; 0 means five seconds.
	TTL time.Duration
	// Ready is called when the sockets are open; nil means nobody wants to know.
	Ready func()
	// Log is told of start, snapshot and errors; the zero value discards.
	Log logr.Logger
}

func (c Config) withDefaults() Config {
	if c.Port == 0 {
		c.Port = 53
	}
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	c.Domain = strings.ToLower(strings.Trim(c.Domain, "."))
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	return c
}

// Run answers questions over UDP and TCP until ctx ends. It returns early only when it cannot listen.
func Run(ctx context.Context, cfg Config) error {
	register()
	cfg = cfg.withDefaults()
	store := NewStore()
	if err := loadSnapshot(cfg.SnapshotFile, store); err != nil {
		cfg.Log.Error(err, "Could not read the snapshot, names are known when the API answers")
	}
	if err := announce(cfg.Address); err != nil {
		return err
	}
	listen := net.JoinHostPort(cfg.Address.String(), strconv.Itoa(int(cfg.Port)))
	packets, err := net.ListenPacket("udp", listen)
	if err != nil {
		return fmt.Errorf("listening for DNS over UDP: %w", err)
	}
	streams, err := net.Listen("tcp", listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listening for DNS over TCP: %w", err), packets.Close())
	}
	handler := newHandler(cfg, store, listen)
	udp := &dns.Server{PacketConn: packets, Handler: handler}
	tcp := &dns.Server{Listener: streams, Handler: handler, IdleTimeout: func() time.Duration { return idle }}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var tasks sync.WaitGroup
	run := func(what string, task func() error) {
		tasks.Go(func() {
			if err := task(); err != nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	run("serving DNS over UDP", udp.ActivateAndServe)
	run("serving DNS over TCP", tcp.ActivateAndServe)
	run("keeping the DNS address", func() error { return keepAnnounced(ctx, cfg.Address, cfg.Log) })
	run("watching services", func() error { return follow(ctx, cfg, store) })
	if cfg.Ready != nil {
		cfg.Ready()
	}
	<-ctx.Done()
	// Closing the sockets ends the servers, however far their start has come.
	_, _ = packets.Close(), streams.Close()
	_, _ = udp.Shutdown(), tcp.Shutdown()
	tasks.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// follow keeps the store in step with the API and the snapshot with the store.
func follow(ctx context.Context, cfg Config, store *Store) error {
	// What a snapshot knew is replaced as a whole: it may know services that are gone.
	fresh := newReplacement(store)
	var snapshots sync.WaitGroup
	defer snapshots.Wait()
	return watch.Run(ctx, cfg.RESTConfig, fresh, func() {
		fresh.replace()
		cfg.Log.Info("Knows the cluster's services")
		if cfg.SnapshotFile != "" {
			snapshots.Go(func() { keepSnapshot(ctx, cfg, store) })
		}
	})
}

// handler answers questions.
type handler struct {
	zone     *Zone
	shared   bool
	forward  *forwarder
	requests chan struct{}
	port     int
}

func newHandler(cfg Config, store *Store, listen string) *handler {
	servers := (&resolvConf{path: cfg.ResolvConf, self: []string{listen}}).list
	if len(cfg.Upstreams) > 0 {
		var fixed []string
		for _, server := range cfg.Upstreams {
			fixed = append(fixed, withPort(server))
		}
		fixed = without(fixed, []string{listen})
		servers = func() []string { return fixed }
	}
	zone := &Zone{
		Domain: cfg.Domain, Address: cfg.Address, Ranges: cfg.Ranges, TTL: uint32(cfg.TTL / time.Second), Store: store,
	}
	return &handler{
		zone: zone, shared: cfg.Shared, forward: newForwarder(stubServers(cfg.Stubs, servers)), requests: make(chan struct{}, maxRequests), port: int(cfg.Port),
	}
}

func withPort(server string) string {
	if _, _, err := net.SplitHostPort(server); err == nil {
		return server
	}
	return net.JoinHostPort(server, "53")
}

func without(servers, excluded []string) []string {
	return slices.DeleteFunc(servers, func(s string) bool { return slices.Contains(excluded, s) })
}

// ServeDNS answers one request.
func (h *handler) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	select {
	case h.requests <- struct{}{}:
		defer func() { <-h.requests }()
	default:
		_ = w.Close()
		return
	}
	start, reply := time.Now(), new(dns.Msg)
	reply.SetReply(request)
	reply.RecursionAvailable, reply.Compress = true, true
	option := request.IsEdns0()
	switch {
	case len(request.Question) != 1 || request.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
	case option != nil && option.Version() != 0:
		reply.Rcode = dns.RcodeBadVers
	case request.Question[0].Qclass != dns.ClassINET:
		reply.Rcode = dns.RcodeRefused
	default:
		q := question{
			name: strings.ToLower(request.Question[0].Name), kind: request.Question[0].Qtype,
			secure: option != nil && option.Do(),
		}
		h.answer(reply, q)
	}
	size := dns.MinMsgSize
	if option != nil {
		size = max(size, min(int(option.UDPSize()), udpSize))
		reply.SetEdns0(udpSize, option.Do())
	}
	if _, udp := w.LocalAddr().(*net.UDPAddr); !udp {
		size = dns.MaxMsgSize
	}
	reply.Truncate(size)
	// Nobody is left to tell when the client is gone.
	_ = w.WriteMsg(reply)
	h.answered(w, request, reply, start)
}

// answer fills in the reply to a question.
func (h *handler) answer(reply *dns.Msg, q question) {
	if !h.zone.Owns(q.name) {
		h.merge(reply, h.forward.ask(context.Background(), q))
		return
	}
	if !h.zone.Store.Known() {
		// "No such name" would be believed, and kept, although nothing is known.
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	reply.Authoritative = true
	name := q.name
	for range maxChain {
		r := h.zone.lookup(name, q.kind)
		reply.Answer, reply.Extra = append(reply.Answer, r.answer...), append(reply.Extra, r.extra...)
		switch {
		case h.shared && !r.exists && !r.ours && dns.IsSubDomain(h.zone.Domain+".", name):
			reply.Authoritative = false
			h.merge(reply, h.forward.ask(context.Background(), question{name: name, kind: q.kind, secure: q.secure}))
			return
		case r.external == "" || q.kind == dns.TypeCNAME:
			h.conclude(reply, name, r)
			return
		case !h.zone.Owns(r.external):
			h.merge(reply, h.forward.ask(context.Background(), question{name: r.external, kind: q.kind, secure: q.secure}))
			return
		}
		name = r.external
	}
	reply.Rcode = dns.RcodeServerFailure
}

// conclude says what it means when there is no answer.
func (h *handler) conclude(reply *dns.Msg, name string, last result) {
	if !last.exists {
		reply.Rcode = dns.RcodeNameError
	}
	if !last.exists || len(last.answer) == 0 {
		reply.Ns = append(reply.Ns, h.zone.soa(name))
	}
}

// merge adds what another server has said.
func (h *handler) merge(reply, other *dns.Msg) {
	reply.Rcode = other.Rcode
	reply.Answer = append(reply.Answer, other.Answer...)
	reply.Ns = append(reply.Ns, other.Ns...)
	for _, record := range other.Extra {
		if record.Header().Rrtype != dns.TypeOPT {
			reply.Extra = append(reply.Extra, record)
		}
	}
}
