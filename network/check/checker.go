package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/network/kernel"
	"drayage.dev/network/podnet"
	"drayage.dev/network/spec"
)

const (
	// patience bounds the wait for one packet's answer, tries is how often one is asked for; dialPatience
	// bounds that for a connection.
	patience     = 500 * time.Millisecond
	tries        = 3
	dialPatience = 2 * time.Second
	// looks is how often the kernel is asked for rules that differ, each lookAgain after the one before. Well below
	// the ten seconds after which the agent repairs what others have changed.
	looks     = 4
	lookAgain = 250 * time.Millisecond
	// atOnce is how many ways are looked at side by side.
	atOnce = 16
	// maxEndpoints bounds the endpoints that are connected to for one port.
	maxEndpoints = 10
)

// Network is the node's pod network. podnet's Manager satisfies it.
type Network interface {
	Inspect() (defects []string, ways []podnet.Way, err error)
}

// Services knows what the node should do for services. The service proxy satisfies it.
type Services interface {
	Frontends(service types.NamespacedName) (frontends map[spec.Key]*spec.Frontend, known bool)
}

// Config names the parts of the node.
type Config struct {
	// Node is the node's name.
	Node     string
	Network  Network
	Services Services
	// Compare looks for differences between the kernel and what it should hold.
	Compare func(map[spec.Key]*spec.Frontend) (differences []string, err error)
	// Namespace is the path of a pod's network namespace.
	Namespace func(ctx context.Context, pod types.UID) (path string, err error)
	// NetNS is the path of the node's network namespace; empty means the process's.
	NetNS string
	// DNS are the cluster's name servers, Domain its domain.
	DNS    []netip.Addr
	Domain string
}

// Checker looks for what is broken.
type Checker struct{ config Config }

// New returns a Checker.
func New(config Config) *Checker { return &Checker{config} }

// run is one check: where it begins, and what it has found.
type run struct {
	Config
	report subresourcesv1alpha1.NetworkCheckReport
	// node is the node's own namespace, from where packets begin; from is that of the pod, or the node's.
	node, from *kernel.Namespace
	// who is where connections begin, for people.
	who  string
	ways []podnet.Way
}

func (r *run) ok(format string, arguments ...any) {
	r.report.Findings = append(r.report.Findings, subresourcesv1alpha1.NetworkFinding{Message: fmt.Sprintf(format, arguments...)})
}

func (r *run) broken(format string, arguments ...any) {
	message := fmt.Sprintf(format, arguments...)
	r.report.Findings = append(r.report.Findings, subresourcesv1alpha1.NetworkFinding{
		Broken: true, Message: strings.ToUpper(message[:1]) + message[1:],
	})
}

// Check looks at the ways that are asked for. An error says that it could not look.
func (c *Checker) Check(ctx context.Context, asked subresourcesv1alpha1.NetworkCheck) (subresourcesv1alpha1.NetworkCheckReport, error) {
	r := &run{Config: c.config, who: "node " + c.config.Node}
	r.report.Findings = []subresourcesv1alpha1.NetworkFinding{}
	var err error
	if r.node, err = kernel.OpenNamespace(c.config.NetNS); err != nil {
		return r.report, err
	}
	defer r.node.Close()
	r.from = r.node
	if err := r.inspect(); err != nil {
		return r.report, err
	}
	if asked.From != nil {
		r.who = fmt.Sprintf("pod %s/%s", asked.From.Namespace, asked.From.Name)
		path, err := c.config.Namespace(ctx, types.UID(asked.From.UID))
		if err != nil {
			r.broken("%s has no network on node %s: %v", r.who, c.config.Node, err)
			return r.report, nil
		}
		if r.from, err = kernel.OpenNamespace(path); err != nil {
			return r.report, err
		}
		defer r.from.Close()
	}
	var parts []func(*run)
	for _, node := range asked.Nodes {
		parts = append(parts, func(r *run) { r.toNode(ctx, node) })
	}
	for _, pod := range asked.Pods {
		parts = append(parts, func(r *run) { r.toPod(ctx, pod) })
	}
	for _, service := range asked.Services {
		parts = append(parts, func(r *run) { r.toService(ctx, service) })
	}
	r.together(parts)
	return r.report, ctx.Err()
}

// together runs the parts side by side, as each may wait for packets that get lost, and enters what they
// find in their order.
func (r *run) together(parts []func(*run)) {
	found := make([]run, len(parts))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, part := range parts {
		found[i] = *r
		found[i].report.Findings = nil
		group.Go(func() error {
			part(&found[i])
			return nil
		})
	}
	_ = group.Wait()
	for i := range found {
		r.report.Findings = append(r.report.Findings, found[i].report.Findings...)
	}
}

// inspect looks at what the node's own network should have.
func (r *run) inspect() error {
	defects, ways, err := r.Network.Inspect()
	if err != nil {
		return err
	}
	for _, defect := range defects {
		r.broken("on node %s %s. The agent puts back what is missing every ten seconds: see its log if this stays.", r.Node, defect)
	}
	if len(defects) == 0 {
		r.ok("node %s has all routes to pods, its own and those of %d other nodes", r.Node, len(ways))
	}
	r.ways = ways
	return nil
}

// different compares what the kernel does for the service with what it should. The kernel follows a change of the
// service a moment later: what differs has to do so for a while.
func (r *run) different(ctx context.Context, name types.NamespacedName, frontends map[spec.Key]*spec.Frontend) ([]string, error) {
	for look := 1; ; look++ {
		differences, err := r.Compare(frontends)
		if err != nil || len(differences) == 0 || look == looks {
			return differences, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lookAgain):
		}
		frontends, _ = r.Services.Frontends(name)
	}
}

// wayTo finds how packets get to another node.
func (r *run) wayTo(node string) (podnet.Way, bool) {
	at := slices.IndexFunc(r.ways, func(way podnet.Way) bool { return way.Peer.Name == node })
	if at < 0 {
		return podnet.Way{}, false
	}
	return r.ways[at], true
}

// toNode looks at the way to another node, and through the tunnel to its pods.
func (r *run) toNode(ctx context.Context, node subresourcesv1alpha1.CheckedNode) bool {
	address, err := netip.ParseAddr(node.Address)
	if node.Name == r.Node || err != nil {
		return true
	}
	if err := ping(ctx, r.node, address, 0); err != nil {
		r.broken("node %s does not answer at %s from node %s (%v): one of them is down or cut off, or a firewall between them drops ICMP.", node.Name, address, r.Node, err)
		return false
	}
	r.ok("node %s answers at %s from node %s", node.Name, address, r.Node)
	way, known := r.wayTo(node.Name)
	if !known {
		r.broken("node %s has not heard of node %s: its agent does not reach the API server, or node %s has no pod range yet.", r.Node, node.Name, node.Name)
		return false
	}
	if !way.Tunnel {
		return true
	}
	if err := ping(ctx, r.node, way.End, 0); err != nil {
		r.broken("the tunnel from node %s to node %s carries nothing, although %s answers at %s: open UDP port %d in both directions between the nodes.", r.Node, node.Name, node.Name, address, podnet.TunnelPort)
		return false
	}
	r.ok("the tunnel from node %s to node %s works", r.Node, node.Name)
	return r.size(ctx, way.End, way, "node "+node.Name)
}

// size looks whether the largest packets that pods may send get through where small ones do.
func (r *run) size(ctx context.Context, to netip.Addr, way podnet.Way, who string) bool {
	if err := ping(ctx, r.node, to, way.MTU); err != nil {
		r.broken("packets of %d bytes from node %s to %s get lost, small ones arrive (%v): the network between the nodes carries less than their links say; set the links' MTU to what it carries.", way.MTU, r.Node, who, err)
		return false
	}
	r.ok("packets of %d bytes get from node %s to %s", way.MTU, r.Node, who)
	return true
}

// toPod looks at the way to a pod, of this node or another.
func (r *run) toPod(ctx context.Context, pod subresourcesv1alpha1.CheckedPod) bool {
	name := fmt.Sprintf("pod %s/%s", pod.Namespace, pod.Name)
	address, err := netip.ParseAddr(pod.Address)
	if err != nil {
		r.broken("%s has no address yet.", name)
		return false
	}
	if err := ping(ctx, r.from, address, 0); err != nil {
		where := "on node " + pod.Node
		if pod.Node == r.Node {
			where = "on the same node"
		}
		r.broken("%s (%s, %s) does not answer %s: %v.", name, address, where, r.who, err)
		return false
	}
	r.ok("%s answers %s at %s", name, r.who, address)
	if way, known := r.wayTo(pod.Node); known && pod.Node != r.Node {
		return r.size(ctx, address, way, name)
	}
	return true
}

// toService looks at what the node knows of a service, what its kernel does, what its name leads to, and
// connects.
func (r *run) toService(ctx context.Context, service subresourcesv1alpha1.CheckedService) {
	name := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
	r.resolve(ctx, service)
	if service.Address == "" {
		return
	}
	frontends, known := r.Services.Frontends(name)
	switch {
	case !known:
		r.broken("the agent of node %s has not heard the services from the API server yet; the kernel has what the agent before it knew.", r.Node)
	case len(frontends) == 0:
		r.broken("the agent of node %s does not know service %s: it does not reach the API server, or the service is another proxy's (label service.kubernetes.io/service-proxy-name).", r.Node, name)
	default:
		r.compare(ctx, name, frontends)
	}
	for _, port := range service.Ports {
		r.heard(name, service.Address, port, frontends)
		if port.Protocol == "TCP" {
			r.connect(ctx, name, service.Address, port)
		}
	}
}

func (r *run) compare(ctx context.Context, name types.NamespacedName, frontends map[spec.Key]*spec.Frontend) {
	differences, err := r.different(ctx, name, frontends)
	if err != nil {
		r.broken("the kernel of node %s could not be asked for its service rules: %v.", r.Node, err)
		return
	}
	for _, difference := range differences {
		r.broken("the kernel of node %s does not do for service %s what it should: %s. Somebody else changed the table; the agent repairs it every ten seconds: see its log if this stays.", r.Node, name, difference)
	}
	if len(differences) == 0 {
		r.ok("the kernel of node %s has all of the %d frontends of service %s", r.Node, len(frontends), name)
	}
}

// heard looks whether the node knows the endpoints that the API has.
func (r *run) heard(name types.NamespacedName, address string, port subresourcesv1alpha1.CheckedPort, frontends map[spec.Key]*spec.Frontend) {
	parsed, err := netip.ParseAddr(address)
	f := frontends[spec.Key{Addr: parsed, Proto: protocols[port.Protocol], Port: uint16(port.Port)}]
	if err != nil || f == nil {
		return
	}
	has := map[string]bool{}
	for _, endpoint := range f.Endpoints() {
		has[endpoint.String()] = true
	}
	var lacks []string
	for _, endpoint := range port.Endpoints {
		if !has[endpoint] {
			lacks = append(lacks, endpoint)
		}
	}
	if len(lacks) > 0 && len(has) > 0 {
		r.broken("node %s sends nothing to %s of service %s, though the API has them as ready: it keeps to its own endpoints (a traffic policy Local or weights), or it is behind.", r.Node, strings.Join(lacks, ", "), name)
	}
}

var protocols = map[string]uint8{"TCP": 6, "UDP": 17}

// connect opens a connection to the service, and to each of its endpoints.
func (r *run) connect(ctx context.Context, name types.NamespacedName, address string, port subresourcesv1alpha1.CheckedPort) {
	target := net.JoinHostPort(address, fmt.Sprint(port.Port))
	switch err := r.dial(ctx, target); {
	case err == nil:
		r.ok("%s connects to service %s at %s", r.who, name, target)
	case len(port.Endpoints) == 0:
		// Whoever asked says why there is none.
		r.ok("%s is refused by service %s at %s, as it should be without endpoints", r.who, name, target)
	default:
		r.broken("%s cannot connect to service %s at %s: %s.", r.who, name, target, reason(err))
	}
	for _, endpoint := range port.Endpoints[:min(len(port.Endpoints), maxEndpoints)] {
		if err := r.dial(ctx, endpoint); err != nil {
			r.broken("%s cannot connect to %s, an endpoint of service %s: %s.", r.who, endpoint, name, reason(err))
		} else {
			r.ok("%s connects to %s, an endpoint of service %s", r.who, endpoint, name)
		}
	}
}

func (r *run) dial(ctx context.Context, address string) error {
	return r.from.Do(func() error {
		ctx, cancel := context.WithTimeout(ctx, dialPatience)
		defer cancel()
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// reason says what a failed connection means.
func reason(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused, nothing listens there"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "the address is unreachable, nobody has it"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", dialPatience)
	}
	return err.Error()
}
