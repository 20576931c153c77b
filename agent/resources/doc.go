// Package resources turns requests and limits into cgroup values: CPU shares and quotas, memory limits,
// huge pages, OOM scores, QoS classes and the names of cgroups, by kubelet's formulas.
//
// The agent calls it when it makes a pod's cgroup, a sandbox or a container. It is pure.
package resources
