package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
)

const (
	benchNamespace = "default"
	servicePort    = 80
	// writers is how many objects are made at once.
	writers = 16
)

// load is the services of the API server: number n has an address, endpoints of its own and a slice,
// once in Kubernetes' kinds and once in Drayage's. Number 0 is the one for bulk transfer, number 1 the
// one whose only endpoint changes.
type load struct {
	api       client.Client
	endpoints int
	size      int
}

const (
	bulkService   = 0
	changeService = 1
)

func newLoad(h *host, endpoints int) *load { return &load{api: h.api, endpoints: endpoints} }

// grow makes services until there are size of them.
func (l *load) grow(ctx context.Context, size int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for n := l.size; n < size; n++ {
		group.Go(func() error {
			return l.create(ctx, l.service(n), l.slice(n, l.addresses(n)))
		})
	}
	l.size = size
	return group.Wait()
}

// create makes a service with its slice, once in Kubernetes' kinds and once in Drayage's.
func (l *load) create(ctx context.Context, service *corev1.Service, slice *discoveryv1.EndpointSlice) error {
	for _, object := range []client.Object{
		service, slice,
		&dcorev1.Service{ObjectMeta: *service.ObjectMeta.DeepCopy(), Spec: *service.Spec.DeepCopy()}, drayageSlice(slice),
	} {
		object.SetResourceVersion("")
		object.SetUID("")
		if err := l.api.Create(ctx, object); err != nil {
			return fmt.Errorf("making %T %s: %w", object, object.GetName(), err)
		}
	}
	return nil
}

// headlessServices is how many services without an address there are beside the others, for questions to DNS.
const headlessServices = 100

func headlessName(n int) string { return fmt.Sprintf("headless-%03d", n) }

// makeHeadless makes services without an address, with endpoints as the others have.
func (l *load) makeHeadless(ctx context.Context) error {
	for n := range headlessServices {
		service, slice := l.service(n), l.slice(n, l.addresses(n+2))
		service.Name, slice.Name = headlessName(n), headlessName(n)+"-1"
		service.Spec.ClusterIP, service.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		// What CoreDNS knows a headless service's slice by is its controller's label.
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: service.Name, corev1.IsHeadlessService: ""}
		if err := l.create(ctx, service, slice); err != nil {
			return err
		}
	}
	return nil
}

// address is the cluster address of a service; the first addresses of the range are Kubernetes' own.
func (l *load) address(n int) netip.AddrPort {
	base := serviceRange.Addr().As4()
	number := n + 256
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{base[0], base[1], byte(number >> 8), byte(number)}), servicePort)
}

func (l *load) addresses(n int) []string {
	if n == changeService || n == bulkService {
		return []string{fmt.Sprintf("10.244.%d.1", 100+n)}
	}
	addresses := make([]string, l.endpoints)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.244.%d.%d", n%100, i+1)
	}
	return addresses
}

func name(n int) string { return fmt.Sprintf("service-%05d", n) }

func (l *load) service(n int) *corev1.Service {
	target := endpointPort
	if n == bulkService {
		target = bulkPort
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: name(n)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: l.address(n).Addr().String(), ClusterIPs: []string{l.address(n).Addr().String()},
			Ports: []corev1.ServicePort{{Name: "http", Port: servicePort, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt(target)}},
		},
	}
}

func (l *load) slice(n int, addresses []string) *discoveryv1.EndpointSlice {
	yes, no, port, protocol, portName := true, false, int32(endpointPort), corev1.ProtocolTCP, "http"
	if n == bulkService {
		port = bulkPort
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: benchNamespace, Name: name(n) + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name(n)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
	}
	for _, address := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
		})
	}
	return slice
}

func drayageSlice(slice *discoveryv1.EndpointSlice) *ddiscoveryv1.EndpointSlice {
	return &ddiscoveryv1.EndpointSlice{
		ObjectMeta: *slice.ObjectMeta.DeepCopy(), AddressType: slice.AddressType, Endpoints: slice.Endpoints, Ports: slice.Ports,
	}
}

// change gives the service that changes another endpoint, in the kind that the proxy follows, and
// returns when the write was sent.
func (l *load) change(ctx context.Context, of kind, address string) (time.Time, error) {
	var object client.Object = l.slice(changeService, []string{address})
	var current client.Object = &discoveryv1.EndpointSlice{}
	if of == drayage {
		object, current = drayageSlice(object.(*discoveryv1.EndpointSlice)), &ddiscoveryv1.EndpointSlice{}
	}
	if err := l.api.Get(ctx, client.ObjectKeyFromObject(object), current); err != nil {
		return time.Time{}, err
	}
	object.SetResourceVersion(current.GetResourceVersion())
	sent := time.Now()
	return sent, l.api.Update(ctx, object)
}
