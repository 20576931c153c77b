// Package podnet wires pods to the node: a routed veth each, with a /32 (or /128) route on the host
// and a default route over a link-local gateway in the pod; no bridge, so that one forward hook sees
// every packet of every pod. It owns the pods' addresses (package ipam), the node's routes for the pod
// and service ranges, and the nftables table "drayage-podnet".
//
// The agent calls it through its PodNetwork interface, the runtime through package cni. It never
// touches pods with host network, other people's routes, or global sysctls: forwarding is switched on
// for the pods' links and the uplink only (Cleanup restores the uplink's).
//
// The host end of every link has the same hardware address and no IP address. The pod knows the
// gateway 169.254.1.1 by a permanent neighbour entry, as the host knows the pod, so no ARP is needed.
package podnet
