package endpointslice

import (
	"context"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/internal/upstream"
)

// upstreamCore is how upstream spells the API version of the core group in references.
const upstreamCore = "v1"

// redirected is as much of a clientset as upstream's reconciler uses, over Drayage's EndpointSlices.
type redirected struct {
	kubernetes.Interface
	client client.Client
}

func (r redirected) DiscoveryV1() discoveryclient.DiscoveryV1Interface {
	return discovery{client: r.client}
}

type discovery struct {
	discoveryclient.DiscoveryV1Interface
	client client.Client
}

func (d discovery) EndpointSlices(namespace string) discoveryclient.EndpointSliceInterface {
	return endpointSlices{client: d.client, namespace: namespace}
}

type endpointSlices struct {
	discoveryclient.EndpointSliceInterface
	client    client.Client
	namespace string
}

func (s endpointSlices) Create(ctx context.Context, slice *discoveryv1.EndpointSlice, _ metav1.CreateOptions) (*discoveryv1.EndpointSlice, error) {
	object := fromUpstream(slice)
	if err := s.client.Create(ctx, object); err != nil {
		return nil, err
	}
	return toUpstream(object), nil
}

func (s endpointSlices) Update(ctx context.Context, slice *discoveryv1.EndpointSlice, _ metav1.UpdateOptions) (*discoveryv1.EndpointSlice, error) {
	object := fromUpstream(slice)
	if object.ResourceVersion == "" {
		// A new slice that takes the place of one that would go: upstream's kinds may be overwritten
		// unseen, custom resources may not.
		replaced := &ddiscoveryv1.EndpointSlice{}
		if err := s.client.Get(ctx, client.ObjectKeyFromObject(object), replaced); err != nil {
			return nil, err
		}
		object.UID, object.ResourceVersion = replaced.UID, replaced.ResourceVersion
	}
	if err := s.client.Update(ctx, object); err != nil {
		return nil, err
	}
	return toUpstream(object), nil
}

func (s endpointSlices) Delete(ctx context.Context, name string, _ metav1.DeleteOptions) error {
	object := &ddiscoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}
	return client.IgnoreNotFound(s.client.Delete(ctx, object))
}

// fromUpstream turns a slice into Drayage's, with references to Drayage's kinds. The slice is written to.
func fromUpstream(slice *discoveryv1.EndpointSlice) *ddiscoveryv1.EndpointSlice {
	refer(slice, upstreamCore, dcorev1.GroupVersion.String(), dcorev1.GroupVersion.String())
	object := upstream.FromEndpointSlice(slice)
	// One empty entry switches the tracking of fields off: it is the larger part of what a write of a slice
	// costs the API server, and nobody else writes these.
	object.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	return object
}

// toUpstream turns a slice into upstream's, as it would have come out of upstream's cache. The slice is
// written to.
func toUpstream(object *ddiscoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	slice := upstream.EndpointSlice(object)
	slice.TypeMeta = metav1.TypeMeta{}
	slice.ManagedFields = nil
	refer(slice, dcorev1.GroupVersion.String(), upstreamCore, "")
	return slice
}

// refer changes the API version of references to the owning service from one to another, and sets that
// of references to pods.
func refer(slice *discoveryv1.EndpointSlice, from, to, pods string) {
	for i := range slice.OwnerReferences {
		if reference := &slice.OwnerReferences[i]; reference.Kind == "Service" && reference.APIVersion == from {
			reference.APIVersion = to
		}
	}
	for i := range slice.Endpoints {
		if target := slice.Endpoints[i].TargetRef; target != nil && target.Kind == "Pod" {
			changed := *target
			changed.APIVersion = pods
			slice.Endpoints[i].TargetRef = &changed
		}
	}
}
