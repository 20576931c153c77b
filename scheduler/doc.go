// Package scheduler decides which node runs each pod, with kube-scheduler's decisions.
//
// It hosts upstream's scheduler (its queue, cache, framework, default plugins and weights) over
// Drayage's kinds. Two seams make that possible and are all that this package adds:
//
//   - informers that list and watch Drayage's pods, nodes, services and replica sets and hand
//     upstream's kinds to the plugins; kinds that Drayage does not have yet are empty (source.go,
//     informers.go);
//   - a client whose writes to pods reach Drayage's pods: the binding as one merge patch of
//     spec.nodeName, status patches of the scheduler's own conditions and of the nominated node,
//     deletions of preempted pods (client.go, bind.go, status.go).
//
// Upstream's Binding subresource also sets PodScheduled=True. Here a level-triggered loop does, for
// whatever is bound and does not say so yet (scheduled.go).
//
// Package fastpath stands in front of upstream's Scheduler.SchedulePod, which is a field: it answers for
// the pods that it can treat, at a fraction of the cost, and calls the original for all others.
//
// The caller is cmd/dray-scheduler. The package never writes anything but bindings, the conditions
// PodScheduled and DisruptionTarget, the nominated node, deletions of preempted pods, and events.
package scheduler
