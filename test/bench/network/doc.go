// Command network is `make bench-network`: it measures Drayage's service proxy and pod wiring beside
// kube-proxy's nftables mode and the reference CNI plugins, in one run, against one kube-apiserver.
//
// Each proxy runs as a process of its own in a node that is a network namespace, between a namespace of
// clients and one of endpoints; none of them has a route to the outside. Ours is the agent's proxy and
// table without the rest of the agent, so that processes of the same task are compared. The API server
// holds every service twice, as Kubernetes' kind and as Drayage's. Root, `make build` and the binaries
// kube-apiserver and kube-proxy are needed. Nothing but this command and its Makefile target uses it.
package main
