// Package network is the room of one node's network: pod wiring and addresses (podnet, ipam), the
// runtime's network plugin (cni), services (proxy, and nftables behind it) and names (dns).
//
// The packages meet the agent in drayage.dev/internal/node's plain types and in API objects; cmd joins
// them. The room never starts or stops a container.
package network
