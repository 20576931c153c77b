// Package claim decides which objects a workload controls: it adopts orphans that the workload's selector
// matches and releases controlled objects that it matches no longer, with upstream's rules. It also owns
// the cache index that finds an owner's objects without listing a namespace.
//
// The ReplicaSet controller claims pods, the Deployment controller claims ReplicaSets. The package writes
// owner references and nothing else.
package claim
