package dns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	// maxForwards bounds the questions that wait for other name servers at once.
	maxForwards = 1000
	// askTimeout bounds one attempt at one server; attempts is how often the list is gone through.
	askTimeout = 2 * time.Second
	attempts   = 2
	// restFor is how long a server that did not answer is asked last.
	restFor = 10 * time.Second
	// rereadAfter is how old the list of servers may be.
	rereadAfter = 5 * time.Second
	// udpSize is the size of answers over UDP that is announced to other servers: what passes everywhere
	// without fragments.
	udpSize = 1232
)

var errNoServer = errors.New("no name server outside the cluster is known")

// forwarder asks the node's own name servers.
type forwarder struct {
	// servers returns the servers' addresses (host:port), in order of preference.
	servers func() []string
	cache   *cache
	slots   chan struct{}
	flights singleflight.Group

	mu     sync.Mutex
	failed map[string]time.Time
}

func newForwarder(servers func() []string) *forwarder {
	return &forwarder{
		servers: servers, cache: newCache(), slots: make(chan struct{}, maxForwards), failed: map[string]time.Time{},
	}
}

// ask answers a question from the cache or the other servers; a failure is a message with SERVFAIL.
func (f *forwarder) ask(ctx context.Context, q question) *dns.Msg {
	if message := f.cache.get(q); message != nil {
		cacheHits.Inc()
		return message
	}
	cacheMisses.Inc()
	key := fmt.Sprintf("%s %d %t", q.name, q.kind, q.secure)
	answer, _, _ := f.flights.Do(key, func() (any, error) {
		message, err := f.exchange(context.WithoutCancel(ctx), q)
		if err != nil {
			message = new(dns.Msg)
			message.Rcode = dns.RcodeServerFailure
		}
		f.cache.put(q, message)
		return message, nil
	})
	return answer.(*dns.Msg).Copy()
}

func (f *forwarder) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, errors.New("too many questions are waiting for other name servers")
	}
	request := new(dns.Msg)
	request.SetQuestion(q.name, q.kind)
	request.SetEdns0(udpSize, q.secure)
	err := errNoServer
	var last *dns.Msg
	for range attempts {
		for _, server := range f.ordered() {
			var message *dns.Msg
			start := time.Now()
			message, err = exchangeWith(ctx, server, request)
			forwarded(server, message, start)
			if err != nil {
				f.note(server, time.Now())
				continue
			}
			f.note(server, time.Time{})
			last = message
			if message.Rcode != dns.RcodeServerFailure && message.Rcode != dns.RcodeRefused {
				return message, nil
			}
		}
		if last != nil {
			return last, nil
		}
	}
	return nil, fmt.Errorf("asking for %s: %w", q.name, err)
}

func exchangeWith(ctx context.Context, server string, request *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	message, _, err := (&dns.Client{Net: "udp", UDPSize: udpSize}).ExchangeContext(ctx, request, server)
	if err == nil && message.Truncated {
		message, _, err = (&dns.Client{Net: "tcp"}).ExchangeContext(ctx, request, server)
	}
	return message, err
}

// ordered are the servers, those that failed lately behind the others.
func (f *forwarder) ordered() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var good, bad []string
	for _, server := range f.servers() {
		if time.Since(f.failed[server]) < restFor {
			bad = append(bad, server)
		} else {
			good = append(good, server)
		}
	}
	return append(good, bad...)
}

func (f *forwarder) note(server string, failed time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if failed.IsZero() {
		delete(f.failed, server)
		return
	}
	f.failed[server] = failed
	// Servers come from a short file, but the file may change for ever.
	for other, when := range f.failed {
		if time.Since(when) > restFor {
			delete(f.failed, other)
		}
	}
}

// resolvConf follows the name servers in a resolv.conf file.
type resolvConf struct {
	path string
	// self is left out: a server that asked itself would never end.
	self []string

	mu      sync.Mutex
	checked time.Time
	changed time.Time
	servers []string
}

// list returns the file's servers. While the file cannot be read it returns those that it last had.
func (r *resolvConf) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.checked) < rereadAfter {
		return r.servers
	}
	r.checked = time.Now()
	info, err := os.Stat(r.path)
	if err != nil || info.ModTime().Equal(r.changed) {
		return r.servers
	}
	config, err := dns.ClientConfigFromFile(r.path)
	if err != nil {
		return r.servers
	}
	r.changed, r.servers = info.ModTime(), nil
	for _, server := range config.Servers {
		r.servers = append(r.servers, withPort(server))
	}
	r.servers = without(r.servers, r.self)
	return r.servers
}
