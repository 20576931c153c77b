package dns

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// The metrics have CoreDNS's names, labels and buckets, so that its dashboards show these servers.
var (
	requestsTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Namespace: "coredns", Subsystem: "dns", Name: "requests_total",
		Help: "Counter of DNS requests made per zone, protocol and family.", StabilityLevel: metrics.ALPHA,
	}, []string{"server", "zone", "proto", "family", "type"})
	requestDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Namespace: "coredns", Subsystem: "dns", Name: "request_duration_seconds",
		Buckets: metrics.ExponentialBuckets(0.00025, 2, 16), // from 0.25 ms to 8 s
		Help:    "Histogram of the time (in seconds) each request took per zone.", StabilityLevel: metrics.ALPHA,
	}, []string{"server", "zone"})
	responsesTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Namespace: "coredns", Subsystem: "dns", Name: "responses_total",
		Help: "Counter of response status codes.", StabilityLevel: metrics.ALPHA,
	}, []string{"server", "zone", "rcode"})
	cacheHits = metrics.NewCounter(&metrics.CounterOpts{
		Namespace: "coredns", Subsystem: "cache", Name: "hits_total",
		Help: "The count of cache hits.", StabilityLevel: metrics.ALPHA,
	})
	cacheMisses = metrics.NewCounter(&metrics.CounterOpts{
		Namespace: "coredns", Subsystem: "cache", Name: "misses_total",
		Help: "The count of cache misses.", StabilityLevel: metrics.ALPHA,
	})
	forwardDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Namespace: "coredns", Subsystem: "forward", Name: "request_duration_seconds",
		Buckets: metrics.ExponentialBuckets(0.00025, 2, 16),
		Help:    "Histogram of the time each request to another name server took.", StabilityLevel: metrics.ALPHA,
	}, []string{"to", "rcode"})
)

// register makes the metrics known to the process's registry.
var register = sync.OnceFunc(func() {
	legacyregistry.MustRegister(requestsTotal, requestDuration, responsesTotal, cacheHits, cacheMisses, forwardDuration)
})

// queryTypes are the query types that have a label of their own, as CoreDNS's have: others are anybody's choice of 65,536.
var queryTypes = map[uint16]bool{
	dns.TypeA: true, dns.TypeAAAA: true, dns.TypeCNAME: true, dns.TypeDNSKEY: true, dns.TypeDS: true, dns.TypeHTTPS: true, dns.TypeMX: true,
	dns.TypeNS: true, dns.TypeNSEC: true, dns.TypeNSEC3: true, dns.TypePTR: true, dns.TypeRRSIG: true, dns.TypeSOA: true, dns.TypeSRV: true,
	dns.TypeTXT: true, dns.TypeSVCB: true, dns.TypeANY: true,
}

// answered counts a request that has been answered.
func (h *handler) answered(w dns.ResponseWriter, request, reply *dns.Msg, start time.Time) {
	zone, kind := ".", "other"
	if len(request.Question) == 1 {
		q := request.Question[0]
		if h.zone.Owns(strings.ToLower(q.Name)) {
			zone = h.zone.Domain + "."
		}
		if queryTypes[q.Qtype] {
			kind = dns.TypeToString[q.Qtype]
		}
	}
	proto, family := "udp", "1"
	local := w.LocalAddr()
	if local.Network() == "tcp" {
		proto = "tcp"
	}
	if h.zone.Address.Is6() {
		family = "2"
	}
	server := "dns://:" + strconv.Itoa(h.port)
	requestsTotal.WithLabelValues(server, zone, proto, family, kind).Inc()
	requestDuration.WithLabelValues(server, zone).Observe(time.Since(start).Seconds())
	rcode := dns.RcodeToString[reply.Rcode]
	if rcode == "" {
		rcode = strconv.Itoa(reply.Rcode)
	}
	responsesTotal.WithLabelValues(server, zone, rcode).Inc()
}

// forwarded counts a question to another name server.
func forwarded(server string, answer *dns.Msg, start time.Time) {
	rcode := "ERROR"
	if answer != nil {
		rcode = dns.RcodeToString[answer.Rcode]
	}
	forwardDuration.WithLabelValues(server, rcode).Observe(time.Since(start).Seconds())
}
