package node

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
)

// PodRef names one pod's sandbox towards the network. UID is its key: two pods of one name never mix.
type PodRef struct {
	// UID is the pod's UID in the API.
	UID types.UID `json:"uid"`
	// Namespace and Name are the pod's; they serve messages and policies only.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// SandboxID is the runtime's id of the sandbox (CNI_CONTAINERID). A pod gets a new one when its
	// sandbox had to be made again.
	SandboxID string `json:"sandboxID,omitempty"`
	// NetNS is the path of the network namespace. It is empty where only the pod has to be named,
	// and when the namespace is gone already.
	NetNS string `json:"netNS,omitempty"`
	// Addresses are the ones that the runtime remembers of an earlier attachment; empty on Add.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Attachment is what a sandbox was given.
type Attachment struct {
	// Addresses are the pod's, the primary one first; at most one of each family.
	Addresses []netip.Addr `json:"addresses"`
	// HostInterface is the name of the host's end of the pod's link.
	HostInterface string `json:"hostInterface,omitempty"`
	// MAC is the hardware address of the pod's end of the link.
	MAC string `json:"mac,omitempty"`
	// MTU is the link's, in bytes.
	MTU int `json:"mtu,omitempty"`
}
