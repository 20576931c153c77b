package watch

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy/apis"

	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
)

// Service is what the network keeps of a Service: some hundred bytes, where the API's object takes
// thousands and every node keeps all of them. It never changes.
type Service struct{ packed }

// EndpointSlice is what the network keeps of an EndpointSlice, as Service is.
type EndpointSlice struct{ packed }

// packed is an object as protobuf, with what names it beside.
type packed struct {
	types.NamespacedName
	resourceVersion string
	content         []byte
}

// GetObjectMeta tells informers the object's name and version.
func (p *packed) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, ResourceVersion: p.resourceVersion}
}

// ResourceVersion is the version of the object that was kept.
func (p *packed) ResourceVersion() string { return p.resourceVersion }

// The labels and annotations that the network reads.
var (
	keptLabels = []string{
		apis.LabelServiceProxyName, corev1.IsHeadlessService, discoveryv1.LabelServiceName, ddiscoveryv1.GroupLabel,
	}
	keptAnnotations = []string{ddiscoveryv1.WeightAnnotation}
)

func keptMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp,
		Labels: among(m.Labels, keptLabels), Annotations: among(m.Annotations, keptAnnotations),
	}
}

func among(all map[string]string, keys []string) map[string]string {
	var result map[string]string
	for _, key := range keys {
		if value, ok := all[key]; ok {
			if result == nil {
				result = map[string]string{}
			}
			result[key] = value
		}
	}
	return result
}

// KeepService keeps a service: all of it but its selector, conditions, and the labels and annotations that
// the network has no use for. The service stays the caller's.
func KeepService(service *corev1.Service) *Service {
	kept := corev1.Service{ObjectMeta: keptMeta(service.ObjectMeta), Spec: service.Spec}
	kept.Spec.Selector = nil
	kept.Status.LoadBalancer = service.Status.LoadBalancer
	return &Service{pack(&kept.ObjectMeta, &kept)}
}

// Unpack returns what was kept. The caller may write to it.
func (s *Service) Unpack() *corev1.Service {
	service := &corev1.Service{}
	s.unpack(service)
	return service
}

// KeepEndpointSlice keeps a slice: of its endpoints the addresses, conditions, host names, nodes, and the UIDs
// of what is behind them. The slice stays the caller's.
func KeepEndpointSlice(slice *discoveryv1.EndpointSlice) *EndpointSlice {
	kept := discoveryv1.EndpointSlice{
		ObjectMeta: keptMeta(slice.ObjectMeta), AddressType: slice.AddressType, Ports: slice.Ports,
		Endpoints: make([]discoveryv1.Endpoint, len(slice.Endpoints)),
	}
	for i, endpoint := range slice.Endpoints {
		kept.Endpoints[i] = discoveryv1.Endpoint{
			Addresses: endpoint.Addresses, Conditions: endpoint.Conditions, Hostname: endpoint.Hostname, NodeName: endpoint.NodeName,
		}
		if endpoint.TargetRef != nil {
			kept.Endpoints[i].TargetRef = &corev1.ObjectReference{UID: endpoint.TargetRef.UID}
		}
	}
	return &EndpointSlice{pack(&kept.ObjectMeta, &kept)}
}

// Unpack returns what was kept. The caller may write to it.
func (e *EndpointSlice) Unpack() *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{}
	e.unpack(slice)
	return slice
}

func pack(meta *metav1.ObjectMeta, object interface{ Marshal() ([]byte, error) }) packed {
	p := packed{
		NamespacedName:  types.NamespacedName{Namespace: meta.Namespace, Name: meta.Name},
		resourceVersion: meta.ResourceVersion,
	}
	var err error
	if p.content, err = object.Marshal(); err != nil {
		// Generated code that writes to memory has nothing that can fail.
		panic(fmt.Sprintf("packing %s: %v", p.NamespacedName, err))
	}
	return p
}

func (p *packed) unpack(into interface{ Unmarshal([]byte) error }) {
	if err := into.Unmarshal(p.content); err != nil {
		panic(fmt.Sprintf("unpacking %s: %v", p.NamespacedName, err))
	}
}
