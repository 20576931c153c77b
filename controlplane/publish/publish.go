// Package publish keeps the service default/kubernetes, at which pods reach the API: a Service without
// selector on the first address of the service range, the claim on that address, and an EndpointSlice per API
// server. Upstream's kube-apiserver does the same for its own kinds.
//
// It looks at what is there every few seconds, so whatever somebody changes or deletes comes back. Package
// controlplane runs it, on every server for its own endpoint.
package publish

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/internal/allocation"
	"drayage.dev/internal/scheme"
)

const (
	namespace = metav1.NamespaceDefault
	name      = "kubernetes"
	portName  = "https"
	port      = 443

	// managedBy marks the endpoint slices, so that no controller of endpoints takes them for its own.
	managedBy = "drayage-controlplane"

	period = 5 * time.Second

	// renewedAnnotation says when one of several servers last stood by its slice; others remove it
	// after slicePatience.
	renewedAnnotation = "drayage.dev/renewed-at"
	renewPeriod       = 20 * time.Second
	slicePatience     = time.Minute
)

// Config says what to publish.
type Config struct {
	// Client reaches the API server with all rights.
	Client *rest.Config
	// ServiceIP is the service's address.
	ServiceIP netip.Addr
	// Endpoint is where this API server is reached.
	Endpoint netip.AddrPort
	// Server tells the slices of several API servers apart; empty where there is one.
	Server string
}

// Run keeps the service until the context ends.
func Run(ctx context.Context, config Config) error {
	restConfig := rest.CopyConfig(config.Client)
	restConfig.ContentType = runtime.ContentTypeJSON // custom resources know no other
	c, err := client.New(restConfig, client.Options{Scheme: scheme.New()})
	if err != nil {
		return fmt.Errorf("publishing the API server: %w", err)
	}
	log := klog.FromContext(ctx)
	if config.Endpoint.Addr().IsLoopback() {
		log.Info("The API server is advertised on loopback, where pods cannot reach it: no endpoint is published", "address", config.Endpoint)
	}
	for ticker := time.NewTicker(period); ; {
		if err := publish(ctx, c, config); err != nil && ctx.Err() == nil {
			log.Error(err, "Publishing the API server failed, trying again", "in", period)
		}
		select {
		case <-ctx.Done():
			ticker.Stop()
			return nil
		case <-ticker.C:
		}
	}
}

func publish(ctx context.Context, c client.Client, config Config) error {
	service := &dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	// The address never changes, so a service on another one, of a server with another range, goes first.
	err := c.Get(ctx, client.ObjectKeyFromObject(service), service)
	if err == nil && service.Spec.ClusterIP != config.ServiceIP.String() {
		if err := c.Delete(ctx, service); err != nil {
			return fmt.Errorf("removing the service %s/%s from %s: %w", namespace, name, service.Spec.ClusterIP, err)
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	service = &dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if _, err := controllerutil.CreateOrPatch(ctx, c, service, func() error { wantService(service, config); return nil }); err != nil {
		return fmt.Errorf("keeping the service %s/%s: %w", namespace, name, err)
	}
	owner := dnetworkingv1alpha1.AllocationOwner{Kind: "Service", Namespace: namespace, Name: name, UID: service.UID}
	if err := claim(ctx, c, allocation.ServiceIP(config.ServiceIP, owner)); err != nil {
		return err
	}
	if config.Endpoint.Addr().IsLoopback() {
		return nil // in a pod that would be the pod itself
	}
	slice := &ddiscoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: config.sliceName()}}
	if _, err := controllerutil.CreateOrPatch(ctx, c, slice, func() error { wantSlice(slice, config); return nil }); err != nil {
		return fmt.Errorf("keeping the endpoint slice %s/%s: %w", namespace, slice.Name, err)
	}
	return removeGone(ctx, c, slice.Name, time.Now())
}

// removeGone removes the slices of servers that have stopped standing by theirs.
func removeGone(ctx context.Context, c client.Client, own string, now time.Time) error {
	slices := &ddiscoveryv1.EndpointSliceList{}
	if err := c.List(ctx, slices, client.InNamespace(namespace), client.MatchingLabels{
		discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: managedBy,
	}); err != nil {
		return fmt.Errorf("listing the endpoints of other servers: %w", err)
	}
	for i := range slices.Items {
		slice := &slices.Items[i]
		// A slice without the annotation is of a server that was alone, and is not any more.
		renewed, err := time.Parse(time.RFC3339, slice.Annotations[renewedAnnotation])
		if slice.Name == own || err == nil && now.Sub(renewed) < slicePatience {
			continue
		}
		if err := c.Delete(ctx, slice, client.Preconditions{UID: &slice.UID, ResourceVersion: &slice.ResourceVersion}); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("removing the endpoint slice %s of a server that is gone: %w", slice.Name, err)
		}
	}
	return nil
}

// claim makes the claim on the service's address and takes it over from an earlier service of the same name.
func claim(ctx context.Context, c client.Client, want *dnetworkingv1alpha1.Allocation) error {
	have := &dnetworkingv1alpha1.Allocation{}
	err := c.Get(ctx, client.ObjectKeyFromObject(want), have)
	switch {
	case err == nil && have.Spec.Owner == want.Spec.Owner:
		return nil
	case err == nil:
		if err := c.Delete(ctx, have, client.Preconditions{UID: &have.UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("taking over the claim on %s: %w", want.Spec.Value, err)
		}
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("reading the claim on %s: %w", want.Spec.Value, err)
	}
	if err := c.Create(ctx, want); err != nil {
		return fmt.Errorf("claiming %s: %w", want.Spec.Value, err)
	}
	return nil
}

func wantService(service *dcorev1.Service, config Config) {
	metav1.SetMetaDataLabel(&service.ObjectMeta, "component", "apiserver")
	metav1.SetMetaDataLabel(&service.ObjectMeta, "provider", "kubernetes")
	spec := &service.Spec
	spec.Type, spec.Selector = corev1.ServiceTypeClusterIP, nil
	spec.ClusterIP, spec.ClusterIPs = config.ServiceIP.String(), []string{config.ServiceIP.String()}
	spec.Ports = []corev1.ServicePort{{Name: portName, Protocol: corev1.ProtocolTCP, Port: port, TargetPort: intstr.FromInt32(int32(config.Endpoint.Port()))}}
}

func wantSlice(slice *ddiscoveryv1.EndpointSlice, config Config) {
	metav1.SetMetaDataLabel(&slice.ObjectMeta, discoveryv1.LabelServiceName, name)
	metav1.SetMetaDataLabel(&slice.ObjectMeta, discoveryv1.LabelManagedBy, managedBy)
	if config.Server != "" {
		renewed, err := time.Parse(time.RFC3339, slice.Annotations[renewedAnnotation])
		if now := time.Now(); err != nil || now.Sub(renewed) >= renewPeriod {
			metav1.SetMetaDataAnnotation(&slice.ObjectMeta, renewedAnnotation, now.UTC().Format(time.RFC3339))
		}
	}
	slice.AddressType = discoveryv1.AddressTypeIPv4
	if config.Endpoint.Addr().Is6() {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	slice.Endpoints = []discoveryv1.Endpoint{{
		Addresses:  []string{config.Endpoint.Addr().String()},
		Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
	}}
	slice.Ports = []discoveryv1.EndpointPort{{Name: ptr.To(portName), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(config.Endpoint.Port()))}}
}

func (c Config) sliceName() string {
	if c.Server == "" {
		return name
	}
	return name + "-" + c.Server
}
