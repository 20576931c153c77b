// Command schedulerperf runs upstream's scheduler_perf workloads end to end, against kube-scheduler and against
// Drayage's scheduler, and prints how they compare. `make bench-scheduler` calls it.
//
// The workloads are read from the pinned k8s.io/kubernetes module (workload.go). Each runs on a control plane
// of its own: kube-apiserver with an etcd beside it for core pods, the embedded API server with its etcd for
// Drayage's (side.go). API server, scheduler and load are processes of their own, so that the CPU time of each
// is known. Both etcds write without fsync; no agent runs, but pods that are deleted go at once.
//
// What upstream's test does and this does not: pods that are there before the measurement are created bound,
// evenly over all nodes, because scheduling them is not what is measured.
package main
