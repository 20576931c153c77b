package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drayage.dev/network/kernel"
)

// Peer is another node of the cluster.
type Peer struct {
	// Name is the node's.
	Name string
	// Addresses are where the node is reached, the primary one of a family first.
	Addresses []netip.Addr
	// PodCIDRs are the pods behind it, at most one range of each family.
	PodCIDRs []netip.Prefix
	// Lost says that the API has not heard of the node for its grace period: agent, machine or network may be
	// down. A direct link shows the kernel which it is; the far end of the tunnel is asked.
	Lost bool `json:",omitempty"`
}

// address is the peer's primary address of a family, or the zero address.
func (p Peer) address(four bool) netip.Addr {
	for _, address := range p.Addresses {
		if address.Is4() == four {
			return address
		}
	}
	return netip.Addr{}
}

// ErrPeersUnknown says that nobody has told yet which other nodes there are.
var ErrPeersUnknown = errors.New("the other nodes are not known yet")

func (m *Manager) peerFile() string { return filepath.Join(m.cfg.StateDir, "peers") }

// SetPeers tells which other nodes there are, all of them, and brings the routes to their pods up to
// date: by way of their addresses where those are on the uplink's own network, through the tunnel
// otherwise. It is remembered across restarts; calling it again with the same peers costs nothing.
func (m *Manager) SetPeers(_ context.Context, peers []Peer) error {
	peers = slices.Clone(peers)
	slices.SortFunc(peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.heard && m.peerErr == nil && reflect.DeepEqual(m.peers, peers) {
		return nil
	}
	if err := remember(m.peerFile(), peers); err != nil {
		return fmt.Errorf("remembering the other nodes: %w", err)
	}
	m.peers, m.heard = peers, true
	return errors.Join(m.ensureTable(), m.routePeers())
}

// Ready returns nil when pods of this node and of the others can reach each other as far as this node
// is concerned; else what is missing.
func (m *Manager) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case len(m.cidrs) == 0:
		return ErrNoPodRange
	case !m.heard:
		return ErrPeersUnknown
	}
	return m.peerErr
}

// peerAddresses4 are the peers' IPv4 addresses, sorted, each once.
func (m *Manager) peerAddresses4() [][]byte {
	var addresses []netip.Addr
	for _, peer := range m.peers {
		for _, address := range peer.Addresses {
			if address.Is4() {
				addresses = append(addresses, address)
			}
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	var keys [][]byte
	for _, address := range slices.Compact(addresses) {
		keys = append(keys, address.AsSlice())
	}
	return keys
}

// routePeers makes the kernel's routes to peers exactly those that there should be. Routes that are
// right are not touched, so connections go on while an agent starts; a route that changes is replaced
// in one step. Until it has been told of peers it leaves everything as it is.
func (m *Manager) routePeers() error {
	if !m.heard {
		return nil
	}
	m.peerErr = m.reconcilePeers()
	return m.peerErr
}

func (m *Manager) reconcilePeers() error {
	uplink, err := m.uplink()
	if err != nil {
		return fmt.Errorf("finding the uplink: %w", err)
	}
	if uplink == nil {
		if len(m.peers) == 0 {
			return nil
		}
		return errors.New("the node has no uplink: no link has its address, and there is no default route")
	}
	var direct, tunnelled []hop
	for _, peer := range m.peers {
		for _, cidr := range peer.PodCIDRs {
			h := hop{cidr: cidr.Masked(), node: peer.address(cidr.Addr().Is4()), lost: peer.Lost}
			if !m.acceptable(h.cidr) || !h.node.IsValid() {
				m.cfg.Log.Info("Ignored a node's pod addresses", "node", peer.Name, "range", cidr)
				continue
			}
			if m.onLink(&h, uplink) {
				direct = append(direct, h)
			} else {
				tunnelled = append(tunnelled, h)
			}
		}
	}
	var desired []netlink.Route
	for _, h := range direct {
		desired = append(desired, m.directRoute(h, uplink))
	}
	routes, err := m.tunnelTo(tunnelled, uplink)
	if err != nil {
		// Who is reached directly shall be, whatever ails the tunnel.
		return errors.Join(err, m.replaceRoutes(desired, false))
	}
	if err := m.replaceRoutes(append(desired, routes...), true); err != nil {
		return err
	}
	// Last, when nothing is sent there any more.
	return m.pruneTunnel(tunnelled)
}

// hop is one range of one peer's pods.
type hop struct {
	cidr netip.Prefix
	// node is the peer's address.
	node netip.Addr
	// pathMTU is what the kernel knows of the way to the peer; 0 means nothing.
	pathMTU int
	// lost is the peer's.
	lost bool
}

// acceptable tells whether a range may belong to a peer: it lies in the cluster's pod ranges, and
// outside this node's own.
func (m *Manager) acceptable(cidr netip.Prefix) bool {
	inside := slices.ContainsFunc(m.cfg.PodRanges, func(all netip.Prefix) bool {
		return all.Bits() <= cidr.Bits() && all.Contains(cidr.Addr())
	})
	return inside && !slices.ContainsFunc(m.cidrs, cidr.Overlaps)
}

// onLink tells whether the peer's address is on the uplink's own network.
func (m *Manager) onLink(h *hop, uplink netlink.Link) bool {
	routes, err := m.handle.RouteGet(h.node.AsSlice())
	if err != nil || len(routes) == 0 {
		// No way there now. The tunnel's outer packets will take the one that comes.
		return false
	}
	h.pathMTU = routes[0].MTU
	return routes[0].Gw == nil && routes[0].LinkIndex == uplink.Attrs().Index
}

func (m *Manager) directRoute(h hop, uplink netlink.Link) netlink.Route {
	return m.peerRoute(h.cidr, h.node, uplink.Attrs().Index)
}

func (m *Manager) peerRoute(to netip.Prefix, via netip.Addr, link int) netlink.Route {
	route := netlink.Route{
		LinkIndex: link, Dst: ipNet(to), Gw: via.AsSlice(), Table: unix.RT_TABLE_MAIN, Protocol: kernel.RouteProtocol,
	}
	if source := m.nodeAddress(to.Addr()); source.IsValid() {
		route.Src = source.AsSlice()
	}
	return route
}

// replaceRoutes adds and replaces routes to peers; with prune it then deletes those that are not
// desired. Drayage's routes to peers are those of its protocol that have a gateway or say of a silent peer that
// it cannot be reached.
func (m *Manager) replaceRoutes(desired []netlink.Route, prune bool) error {
	found, err := listRoutes(m.handle, netlink.FAMILY_ALL,
		&netlink.Route{Protocol: kernel.RouteProtocol, Table: unix.RT_TABLE_UNSPEC},
		netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	present := map[string]netlink.Route{}
	for _, route := range found {
		if route.Dst != nil && (route.Gw != nil || refuses(route) && route.Priority != kernel.WorstMetric) {
			present[routeKey(route)] = route
		}
	}
	var errs []error
	for _, route := range desired {
		is, ok := present[routeKey(route)]
		delete(present, routeKey(route))
		if ok && sameRoute(is, route) {
			continue
		}
		if err := m.handle.RouteReplace(&route); err != nil {
			errs = append(errs, fmt.Errorf("routing %s to its node: %w", route.Dst, err))
		}
	}
	if !prune {
		return errors.Join(errs...)
	}
	for _, route := range present {
		if err := m.handle.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("deleting the route to %s: %w", route.Dst, err))
		}
	}
	return errors.Join(errs...)
}

func routeKey(route netlink.Route) string { return fmt.Sprintf("%d %s", route.Table, route.Dst) }

func sameRoute(a, b netlink.Route) bool {
	const flags = int(netlink.FLAG_ONLINK)
	if refuses(a) || refuses(b) {
		return refuses(a) && refuses(b)
	}
	return a.LinkIndex == b.LinkIndex && a.Gw.Equal(b.Gw) && a.Src.Equal(b.Src) && a.MTU == b.MTU &&
		a.Flags&flags == b.Flags&flags
}
