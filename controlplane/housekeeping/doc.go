// Package housekeeping runs the controllers without which a Kubernetes API does not clean up after itself
// and which an ordinary cluster finds in kube-controller-manager: garbage collector, namespaces, default
// service accounts, the published root certificate, quotas, expired join tokens, old certificate requests.
//
// They are upstream's own. Package controlplane runs them beside its API server, one set per cluster: where
// several servers share an etcd, a lease says whose turn it is.
package housekeeping
