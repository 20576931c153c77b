// Package slot holds the specs of a node whose agent is a pod of somebody else's cluster: `dray-agent pod` in a
// mount namespace and a cgroup such as a kubelet gives to a container. No kubelet takes part; what it would do
// to the pod, the specs do.
package slot
