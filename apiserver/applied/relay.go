package applied

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

const (
	// gather is the least time between two messages to a replica: what is reported meanwhile shares one.
	gather = 2 * time.Millisecond
	// sendTimeout bounds one message.
	sendTimeout = 5 * time.Second
	// A message that failed is sent again, with what has come since, after minResend, then twice as long each time up
	// to maxResend.
	minResend = 50 * time.Millisecond
	maxResend = 2 * time.Second
)

// Send passes reports on to one other replica.
type Send func(ctx context.Context, reports map[string]subresourcesv1alpha1.NodeReport) error

// Relay passes what nodes report to this replica on to the others: a node reports to whichever it reaches, and a
// question may come to any. What came from another replica is not passed on.
type Relay struct {
	ledger *Ledger
	log    logr.Logger

	mu    sync.Mutex
	peers map[string]*peer
}

// peer is one other replica. What it is to be sent is bounded by the number of nodes.
type peer struct {
	stop context.CancelFunc
	send Send
	// kick holds a token when there is something to send.
	kick chan struct{}

	mu      sync.Mutex
	waiting map[string]subresourcesv1alpha1.NodeReport
}

// NewRelay returns a relay of ledger's reports without peers. A ledger has one at most.
func NewRelay(ledger *Ledger, log logr.Logger) *Relay {
	r := &Relay{ledger: ledger, log: log, peers: map[string]*peer{}}
	ledger.mu.Lock()
	defer ledger.mu.Unlock()
	ledger.reported = r.reported
	return r
}

// Set says which the other replicas are, by any name that stays theirs. A new one is sent all that is known here.
// Messages end with ctx.
func (r *Relay) Set(ctx context.Context, replicas map[string]Send) {
	for _, p := range r.replace(ctx, replicas) {
		// Behind what has been reported since it became a peer. Not under r.mu, which reports take while they hold the
		// ledger.
		known := map[string]subresourcesv1alpha1.NodeReport{}
		for node, revision := range r.ledger.snapshot() {
			known[node] = subresourcesv1alpha1.NodeReport{Revision: revision}
		}
		p.giveBack(known)
		p.wake()
	}
}

// replace makes the replicas the peers, and returns those that are new.
func (r *Relay) replace(ctx context.Context, replicas map[string]Send) (added []*peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, p := range r.peers {
		if replicas[name] == nil {
			p.stop()
			delete(r.peers, name)
		}
	}
	for name, send := range replicas {
		if r.peers[name] != nil {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		p := &peer{stop: stop, send: send, kick: make(chan struct{}, 1), waiting: map[string]subresourcesv1alpha1.NodeReport{}}
		r.peers[name] = p
		added = append(added, p)
		go p.run(ctx, r.log.WithValues("replica", name))
	}
	return added
}

// reported takes a node's report to this replica.
func (r *Relay) reported(node string, report subresourcesv1alpha1.NodeReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		p.add(node, report)
	}
}

func (p *peer) add(node string, report subresourcesv1alpha1.NodeReport) {
	p.mu.Lock()
	report.Anew = report.Anew || p.waiting[node].Anew
	p.waiting[node] = report
	p.mu.Unlock()
	p.wake()
}

func (p *peer) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *peer) take() map[string]subresourcesv1alpha1.NodeReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.waiting
	p.waiting = map[string]subresourcesv1alpha1.NodeReport{}
	return taken
}

// giveBack puts reports that did not arrive behind those that have come since.
func (p *peer) giveBack(reports map[string]subresourcesv1alpha1.NodeReport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for node, newer := range p.waiting {
		newer.Anew = newer.Anew || reports[node].Anew
		reports[node] = newer
	}
	p.waiting = maps.Clone(reports)
}

// run sends until ctx ends.
func (p *peer) run(ctx context.Context, log logr.Logger) {
	retry := time.Duration(0)
	for {
		again := (<-chan time.Time)(nil)
		kick := p.kick
		if retry > 0 {
			kick, again = nil, time.After(retry)
		}
		select {
		case <-ctx.Done():
			return
		case <-kick:
			select {
			case <-ctx.Done():
				return
			case <-time.After(gather):
			}
		case <-again:
		}
		reports := p.take()
		if len(reports) == 0 {
			retry = 0
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, sendTimeout)
		err := p.send(bounded, reports)
		cancel()
		if err == nil {
			retry = 0
			continue
		}
		p.giveBack(reports)
		if retry == 0 && ctx.Err() == nil {
			log.Info("Could not pass the nodes' reports on to another replica, trying again", "err", err.Error())
		}
		retry = min(max(minResend, 2*retry), maxResend)
	}
}
