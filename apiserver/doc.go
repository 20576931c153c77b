// Package apiserver is the aggregated API subresources.drayage.dev: what a custom resource cannot have as
// a subresource. For people it carries a pod's log, exec, attach and portforward, which it passes on to
// the agent of the pod's node, and the pod's eviction, which asks the disruption budgets; for nodes it carries the broker of their pods' objects (package
// podobjects).
//
// NewAPIGroup yields the group for a generic API server to install. The embedded server of package
// controlplane does so in process, joined by cmd/dray/server; a server of its own behind an APIService,
// for clusters that have their own control plane, would call it with the same Config. Either way the
// server that installs it authenticates and authorises each request by RBAC on `pods/log`, `pods/exec`,
// `nodes/podobjects` and so on in this group; the package adds what RBAC cannot say: a node reads its
// own objects only.
//
// It stores nothing, and reads pods and nodes when a request names them. The eviction writes: the status of
// the budget that it takes from, a condition of the pod, and the pod's deletion.
package apiserver
