// Package hosted proves Drayage as a guest: the chart charts/drayage, installed with Helm from a local registry on
// a whole Kubernetes of this machine. `make test-cluster` builds what it needs and runs it; the specs carry the
// build tag cluster.
//
// etcd, kube-apiserver, kube-controller-manager and kube-scheduler run in one network namespace, and each of two
// machines is a network, mount, PID and cgroup namespace with the distribution's containerd, a kubelet and
// kube-proxy, at the paths that they have anywhere. A bridge joins them, with no way out but to a namespace that
// plays the outside. What the product does there is the host's nodes' to show: nothing is played.
package hosted
