package kernel

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

const (
	// LinkPrefix begins the name of every link that Drayage makes on a node.
	LinkPrefix = "dray"

	// NodeLinkPrefix begins the names of Drayage's links that are no pod's.
	NodeLinkPrefix = "drayage-"

	// ServiceLink is the link behind ServiceRouteTable.
	ServiceLink = "drayage-svc"

	// TunnelLink is the VXLAN device over which nodes reach each other that share no link.
	TunnelLink = "drayage-vxlan"

	// TunnelRouteTable is the routing table by which pods reach the addresses of nodes behind the tunnel.
	TunnelRouteTable = 14201
	// TunnelRulePriority is the priority of the rule that leads to TunnelRouteTable.
	TunnelRulePriority = 14201

	// PodNetTable is the nftables table of pod wiring: masquerade, and refusal of service addresses
	// that nothing serves.
	PodNetTable = "drayage-podnet"

	// ServiceTable is the nftables table of the service proxy.
	ServiceTable = "drayage-services"

	// TablePrefix begins the name of every nftables table that Drayage makes.
	TablePrefix = "drayage-"

	// RouteProtocol marks Drayage's routes and rules (RTA_PROTOCOL); no routing daemon uses it.
	RouteProtocol = 142

	// ServiceRouteTable is the routing table through which the node's own processes find a source
	// address for service addresses, before nftables rewrites the destination.
	ServiceRouteTable = 14200

	// ServiceRulePriority is the priority of the rule that leads to ServiceRouteTable: behind the
	// local table (0), before the main one (32766).
	ServiceRulePriority = 14200

	// WorstMetric is the metric of the unreachable routes: whoever else has a route for the same
	// range wins.
	WorstMetric = 1 << 30
)

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// LinkName is the name of the host's end of a sandbox's link: LinkPrefix and a hash, 15 bytes, which
// is what the kernel allows.
func LinkName(sandbox string) string {
	sum := sha256.Sum256([]byte(sandbox))
	return LinkPrefix + lowerBase32.EncodeToString(sum[:])[:11]
}

// OwnsPodLink tells whether a link's name is one that LinkName yields.
func OwnsPodLink(name string) bool {
	return len(name) == 15 && strings.HasPrefix(name, LinkPrefix) &&
		strings.Trim(name[len(LinkPrefix):], "abcdefghijklmnopqrstuvwxyz234567") == ""
}
