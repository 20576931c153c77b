package v1alpha1

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PodObjectsContentType is the media type of a stream of PodObjectsFrame: JSON objects, one a line.
const PodObjectsContentType = "application/x-ndjson"

// FrameType says what a frame of the podobjects stream carries.
type FrameType string

const (
	// PodFrame carries, in Pod, a pod that is bound to the node and all that it refers to. It is sent
	// when the pod appears and whenever its references change, and it comes before the Object frames
	// of references that were not there before.
	PodFrame FrameType = "Pod"
	// PodGoneFrame carries, in Pod, the identity of a pod that is no longer the node's business: it
	// was deleted, or has ended for good.
	PodGoneFrame FrameType = "PodGone"
	// ObjectFrame carries, in Object, the present state of one object that some pod refers to. It is
	// sent when the reference appears and whenever the object changes.
	ObjectFrame FrameType = "Object"
	// SyncedFrame follows the Pod frames of all pods that were bound when the stream began: a pod
	// that the reader has from an earlier stream and that has not been named by then is gone. The
	// Object frames of those pods may come later.
	SyncedFrame FrameType = "Synced"
	// HeartbeatFrame carries nothing. A reader that has seen no frame for HeartbeatSeconds several
	// times over should take the stream for dead.
	HeartbeatFrame FrameType = "Heartbeat"
)

// HeartbeatSeconds is the longest time between two frames of a stream that lives.
const HeartbeatSeconds = 10

// PodObjectsFrame is one message of the stream that `nodes/<name>/podobjects` answers with. Frames are
// states, not differences: a reader that starts anew gets everything again, a reader that is slow gets
// the latest state of a thing and not each one on the way. Nobody resumes a stream in the middle.
type PodObjectsFrame struct {
	// Type says which of the other fields is set.
	Type FrameType `json:"type"`
	// Pod is set in Pod and PodGone frames.
	//
	// +optional
	Pod *PodReferences `json:"pod,omitempty"`
	// Object is set in Object frames.
	//
	// +optional
	Object *ObjectState `json:"object,omitempty"`
}

// PodIdentity names one pod; two pods of one name differ in UID.
type PodIdentity struct {
	// Namespace of the pod.
	Namespace string `json:"namespace"`
	// Name of the pod.
	Name string `json:"name"`
	// UID of the pod.
	UID types.UID `json:"uid"`
}

// PodReferences is a pod and the complete list of objects, all of its namespace, that it refers to.
type PodReferences struct {
	PodIdentity `json:",inline"`
	// Secrets that volumes, environment and image pulls of the pod name, sorted.
	//
	// +optional
	Secrets []string `json:"secrets,omitempty"`
	// ConfigMaps that volumes and environment of the pod name, sorted.
	//
	// +optional
	ConfigMaps []string `json:"configMaps,omitempty"`
	// PullSecrets are those of Secrets that hold credentials for image pulls: the pod's own or,
	// where it names none, its service account's.
	//
	// +optional
	PullSecrets []string `json:"pullSecrets,omitempty"`
}

// ObjectKind is the kind of an object in the podobjects stream.
type ObjectKind string

// The kinds that the podobjects stream carries.
const (
	SecretKind    ObjectKind = "Secret"
	ConfigMapKind ObjectKind = "ConfigMap"
)

// ObjectState is the present state of one object. Of the object's metadata only name, namespace, UID
// and resource version are sent.
type ObjectState struct {
	// Kind of the object.
	Kind ObjectKind `json:"kind"`
	// Namespace of the object.
	Namespace string `json:"namespace"`
	// Name of the object.
	Name string `json:"name"`
	// Secret is the object when Kind is Secret. It is absent when there is no such object.
	//
	// +optional
	Secret *corev1.Secret `json:"secret,omitempty"`
	// ConfigMap is the object when Kind is ConfigMap. It is absent when there is no such object.
	//
	// +optional
	ConfigMap *corev1.ConfigMap `json:"configMap,omitempty"`
}

// PodTokenRequest asks for a token of the service account of a pod that is bound to the asking node.
type PodTokenRequest struct {
	// Pod that the token is for.
	Pod PodIdentity `json:"pod"`
	// Spec is upstream's: audiences and expiration, which is shortened to an hour. The object that
	// the token is bound to is not the caller's choice, and ignored.
	Spec authenticationv1.TokenRequestSpec `json:"spec"`
}
