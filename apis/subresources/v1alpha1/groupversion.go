package v1alpha1

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of the aggregated API.
const GroupName = "subresources.drayage.dev"

// GroupVersion is the group and version of the aggregated API.
var GroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

// The aggregated API's resources hold nothing themselves; they carry these subresources. The names of
// a pod's are upstream's, and so are their query parameters.
const (
	// PodsResource carries the streams of one pod.
	PodsResource = "pods"
	// LogSubresource reads a container's log (GET, upstream's PodLogOptions).
	LogSubresource = "log"
	// ExecSubresource runs a command in a container (SPDY or WebSocket, upstream's PodExecOptions).
	ExecSubresource = "exec"
	// AttachSubresource attaches to a container's process (upstream's PodAttachOptions).
	AttachSubresource = "attach"
	// PortForwardSubresource opens connections to a pod's ports (upstream's PodPortForwardOptions).
	PortForwardSubresource = "portforward"
	// EvictionSubresource deletes the pod where its disruption budget allows it (POST, upstream's policy/v1
	// Eviction).
	EvictionSubresource = "eviction"

	// NodesResource carries what one node asks of the control plane.
	NodesResource = "nodes"
	// PodObjectsSubresource streams the objects that the node's pods refer to (GET, a stream of
	// PodObjectsFrame).
	PodObjectsSubresource = "podobjects"
	// PodTokensSubresource mints a token of a pod's service account (POST, a PodTokenRequest,
	// answered by an authentication.k8s.io/v1 TokenRequest).
	PodTokensSubresource = "podtokens"
	// AppliedSubresource takes the node's report of which EndpointSlices its kernel has (POST, an
	// AppliedRevision), and answers whether every Ready node has reported a revision (GET, with
	// RevisionParameter and WaitParameter): with success once they all have, with a Timeout that names
	// those that have not otherwise.
	//
	// Replicas of the API pass reports on to each other under the name AllNodes (POST, NodeReports).
	AppliedSubresource = "applied"
	// AllNodes stands for a node's name where there is more than one.
	AllNodes = "-"
	// RevisionParameter is the query parameter that says which revision is asked for.
	RevisionParameter = "revision"
	// WaitParameter is the query parameter that says how long the answer may take, as in "2s". It is
	// MaxWait at most, and that where it is missing.
	WaitParameter = "wait"
)

// MaxWait bounds how long the answer to a question for a revision takes.
const MaxWait = 5 * time.Second

// AppliedRevision is a node's report: its kernel has every change of EndpointSlices up to the revision.
type AppliedRevision struct {
	// Revision is the API server's resource version of the newest EndpointSlice; 0 means none.
	Revision uint64 `json:"revision"`
}

// NodeReport is a node's report as one replica of the API passes it on to another.
type NodeReport struct {
	// Revision is that of the node's AppliedRevision.
	Revision uint64 `json:"revision"`
	// Anew says that the node had reported a higher one before.
	Anew bool `json:"anew,omitempty"`
}

// NodeReports is what replicas of the API tell each other.
type NodeReports struct {
	// Nodes has the latest report of each node that has reported since the last message, by the node's name.
	Nodes map[string]NodeReport `json:"nodes"`
}

// Resource qualifies a resource name with this package's group.
func Resource(resource string) schema.GroupResource {
	return schema.GroupResource{Group: GroupName, Resource: resource}
}
