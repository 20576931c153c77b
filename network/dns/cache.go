package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxCached bounds the answers kept, at some 500 bytes each.
	maxCached = 20_000
	// maxPositive and maxNegative bound how long an answer is kept, whatever its records say;
	// failedFor is how long a failure is.
	maxPositive = 30 * time.Minute
	maxNegative = 30 * time.Second
	failedFor   = 2 * time.Second
)

// question is what an answer is kept under.
type question struct {
	name string
	kind uint16
	// secure says that the client understands DNSSEC records.
	secure bool
}

type cached struct {
	message *dns.Msg
	stored  time.Time
	expires time.Time
}

// cache keeps answers of other name servers.
type cache struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[question]cached
}

func newCache() *cache { return &cache{now: time.Now, entries: map[question]cached{}} }

// get returns a copy of a kept answer, its times to live reduced by its age; nil when there is none.
func (c *cache) get(q question) *dns.Msg {
	c.mu.Lock()
	entry, ok := c.entries[q]
	c.mu.Unlock()
	now := c.now()
	if !ok || !now.Before(entry.expires) {
		return nil
	}
	message := entry.message.Copy()
	age := uint32(now.Sub(entry.stored) / time.Second)
	for _, section := range [][]dns.RR{message.Answer, message.Ns, message.Extra} {
		for _, record := range section {
			if header := record.Header(); header.Rrtype != dns.TypeOPT {
				header.Ttl -= min(header.Ttl, age)
			}
		}
	}
	return message
}

// put keeps an answer for as long as it is good for.
func (c *cache) put(q question, message *dns.Msg) {
	life := lifetime(message)
	if life <= 0 || message.Truncated {
		return
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxCached {
		c.evict(now)
	}
	c.entries[q] = cached{message: message.Copy(), stored: now, expires: now.Add(life)}
}

// evict makes room: everything that is over, or else any one entry of a hundred.
func (c *cache) evict(now time.Time) {
	seen := 0
	for q, entry := range c.entries {
		if seen++; !now.Before(entry.expires) || seen%100 == 0 {
			delete(c.entries, q)
		}
	}
}

// lifetime is how long an answer may be kept: by its shortest record, or its SOA record when it is
// negative (RFC 2308).
func lifetime(message *dns.Msg) time.Duration {
	switch {
	case message.Rcode != dns.RcodeSuccess && message.Rcode != dns.RcodeNameError:
		return failedFor
	case len(message.Answer) == 0 || message.Rcode == dns.RcodeNameError:
		for _, record := range message.Ns {
			if soa, ok := record.(*dns.SOA); ok {
				return min(time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second, maxNegative)
			}
		}
		return failedFor
	}
	shortest := maxPositive
	for _, record := range message.Answer {
		shortest = min(shortest, time.Duration(record.Header().Ttl)*time.Second)
	}
	return shortest
}
