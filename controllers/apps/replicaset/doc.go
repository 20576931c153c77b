// Package replicaset keeps as many pods as each ReplicaSet asks for: it creates pods from the template in
// batches that grow, deletes those that matter least, adopts and releases pods by label, and reports what
// it sees in the ReplicaSet's status. Rules and words are those of upstream's ReplicaSet controller.
//
// One thing is Drayage's own: while the eviction of a Deployment's pod waits for a replacement (the condition
// PodEvictionRequested), the ReplicaSet has one pod more, as far as the Deployment's maxSurge goes.
//
// It is the only writer of a ReplicaSet's status, and of nothing else in it. It deletes pods through the
// API and never removes a finalizer: what happens between a pod's deletion and its end is its node's
// matter.
package replicaset
