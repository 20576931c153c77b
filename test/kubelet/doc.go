// Package kubelet proves the slot on a real node: kube-apiserver and kubelet in a network, mount and PID namespace
// of their own, and `dray-agent pod` in a pod that the kubelet runs, as the DaemonSet's pods are. `make
// test-kubelet` builds what it needs and runs it; the specs carry the build tag cluster.
//
// Neither scheduler nor controllers run here: the specs bind pods, and what an administrator's chart applies, they
// apply.
package kubelet
