package v1alpha1

// CheckSubresource has a node's agent look for what is broken on the ways from there (POST, a
// NetworkCheck, answered by a NetworkCheckReport).
const CheckSubresource = "check"

// MaxCheckBytes bounds a NetworkCheck, and its report.
const MaxCheckBytes = 1 << 20

// NetworkCheck says which ways to look at. All of them begin on the node that is asked.
type NetworkCheck struct {
	// From is the pod of the node from which they lead; without one, they lead from the node's own
	// processes.
	From *CheckedPod `json:"from,omitempty"`
	// Pods, Nodes and Services are where they lead to.
	Pods     []CheckedPod     `json:"pods,omitempty"`
	Nodes    []CheckedNode    `json:"nodes,omitempty"`
	Services []CheckedService `json:"services,omitempty"`
}

// CheckedPod is a pod as the API knows it.
type CheckedPod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Address   string `json:"address"`
	Node      string `json:"node"`
}

// CheckedNode is a node as the API knows it.
type CheckedNode struct {
	Name string `json:"name"`
	// Address is the node's internal address, PodCIDR the range of its pods' addresses.
	Address string `json:"address"`
	PodCIDR string `json:"podCIDR,omitempty"`
}

// CheckedService is a service as the API knows it.
type CheckedService struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Address is the cluster address; empty for a headless service.
	Address string `json:"address,omitempty"`
	// Ports are the service's.
	Ports []CheckedPort `json:"ports,omitempty"`
}

// CheckedPort is one port of a service.
type CheckedPort struct {
	// Protocol is TCP or UDP.
	Protocol string `json:"protocol"`
	Port     int32  `json:"port"`
	// Endpoints are who should serve it for clients anywhere, as address:port.
	Endpoints []string `json:"endpoints,omitempty"`
}

// NetworkCheckReport is what a node has found.
type NetworkCheckReport struct {
	Findings []NetworkFinding `json:"findings"`
}

// NetworkFinding is one thing that was looked at.
type NetworkFinding struct {
	// Broken says that it is not as it should be.
	Broken bool `json:"broken,omitempty"`
	// Message is a sentence for people: what was looked at or, when it is broken, what is wrong and what
	// to do.
	Message string `json:"message"`
}
