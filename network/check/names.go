package check

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// resolve looks what the service's name leads to from where the check begins.
func (r *run) resolve(ctx context.Context, service subresourcesv1alpha1.CheckedService) {
	if len(r.DNS) == 0 {
		return
	}
	name := strings.Join([]string{service.Name, service.Namespace, "svc", r.Domain, ""}, ".")
	server := net.JoinHostPort(r.DNS[0].String(), "53")
	reply, err := r.ask(ctx, server, name)
	switch {
	case err != nil:
		r.broken("the name server of node %s (%s) does not answer %s about %s: %v; see dns.log in the agent's directory on the node.", r.Node, r.DNS[0], r.who, name, reason(err))
		return
	case reply.Rcode == dns.RcodeServerFailure:
		r.broken("the name server of node %s knows no services yet: it has not reached the API server since its start.", r.Node)
		return
	case reply.Rcode != dns.RcodeSuccess:
		r.broken("the name server of node %s answers %s for %s: it has not heard of the service.", r.Node, dns.RcodeToString[reply.Rcode], name)
		return
	}
	var found []string
	for _, record := range reply.Answer {
		if a, ok := record.(*dns.A); ok {
			if address, ok := netip.AddrFromSlice(a.A); ok {
				found = append(found, address.Unmap().String())
			}
		}
	}
	if service.Address != "" && !slices.Contains(found, service.Address) {
		r.broken("the name server of node %s answers %s for %s, it should be %s.", r.Node, strings.Join(found, ", "), name, service.Address)
		return
	}
	r.ok("%s resolves %s to %s", r.who, name, strings.Join(found, ", "))
}

func (r *run) ask(ctx context.Context, server, name string) (reply *dns.Msg, err error) {
	request := new(dns.Msg)
	request.SetQuestion(name, dns.TypeA)
	err = r.from.Do(func() error {
		client := &dns.Client{Timeout: 2 * time.Second}
		reply, _, err = client.ExchangeContext(ctx, request, server)
		return err
	})
	return reply, err
}
