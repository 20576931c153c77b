package v1alpha1

import "k8s.io/apimachinery/pkg/runtime/schema"

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

	// NodesResource carries what one node asks of the control plane.
	NodesResource = "nodes"
	// PodObjectsSubresource streams the objects that the node's pods refer to (GET, a stream of
	// PodObjectsFrame).
	PodObjectsSubresource = "podobjects"
	// PodTokensSubresource mints a token of a pod's service account (POST, a PodTokenRequest,
	// answered by an authentication.k8s.io/v1 TokenRequest).
	PodTokensSubresource = "podtokens"
)

// Resource qualifies a resource name with this package's group.
func Resource(resource string) schema.GroupResource {
	return schema.GroupResource{Group: GroupName, Resource: resource}
}
