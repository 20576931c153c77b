// Command coredns is CoreDNS with what a Kubernetes cluster's DNS needs, for the cluster of `make test-cluster`:
// as a module of its own, so that its dependencies are nobody else's.
package main
