package service

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/controllers/core/claims"
	"drayage.dev/internal/allocation"
)

// problem is why a service cannot have what it asks for.
type problem struct{ reason, message string }

// allocator makes one pass over one service: it claims what the spec names and fills in what it leaves
// open.
type allocator struct {
	*reconciler
	service *dcorev1.Service
	owner   dnetworkingv1alpha1.AllocationOwner
	// spare are claims of the service that its spec does not show: a pass before this one made them and
	// did not come to write them down. They are used before anything is drawn.
	spare    []dnetworkingv1alpha1.Allocation
	problems []problem
}

// allocate claims everything that the spec of service needs and writes into it what was drawn. What
// stands in the way of being ready comes back as problems.
func (r *reconciler) allocate(ctx context.Context, service *dcorev1.Service) ([]problem, error) {
	owned, err := r.claims.Of(ctx, claims.OwnerOf(claims.Service, service))
	if err != nil {
		return nil, err
	}
	a := &allocator{reconciler: r, service: service, owner: claims.OwnerOf(claims.Service, service)}
	shown := shownIn(&service.Spec)
	for _, claim := range owned {
		if !shown.Has(claim.Name) {
			a.spare = append(a.spare, claim)
		}
	}
	for _, step := range []func(context.Context) error{a.clusterIPs, a.nodePorts, a.healthCheckNodePort} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return a.problems, nil
}

func (a *allocator) clusterIPs(ctx context.Context) error {
	spec := &a.service.Spec
	if !wantsClusterIP(spec) {
		return nil
	}
	if spec.ClusterIP == "" {
		address, found, err := a.drawAddress(ctx)
		if err != nil {
			return err
		}
		if !found {
			a.problem(dcorev1.ServiceClusterIPsExhausted, "no address is left in the service range %s", a.addresses.prefix)
			return nil
		}
		spec.ClusterIP, spec.ClusterIPs = address, []string{address}
		return nil
	}
	if len(spec.ClusterIPs) == 0 {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	for _, text := range spec.ClusterIPs {
		address, err := netip.ParseAddr(text)
		if err != nil || !a.addresses.contains(address) {
			a.problem(dcorev1.ServiceClusterIPOutOfRange, "the provided IP (%s) is not in the valid range. The range of valid IPs is %s", text, a.addresses.prefix)
			continue
		}
		if holder := a.reserved(address); holder != "" {
			a.problem(dcorev1.ServiceClusterIPTaken, "clusterIP %s is reserved for %s", text, holder)
			continue
		}
		if err := a.take(ctx, allocation.ServiceIP(address, a.owner), dcorev1.ServiceClusterIPTaken, "clusterIP"); err != nil {
			return err
		}
	}
	return nil
}

// reserved says for whom an address is set aside, unless that is the service itself.
func (a *allocator) reserved(address netip.Addr) string {
	switch address {
	case a.addresses.api():
		if a.service.Namespace != metav1.NamespaceDefault || a.service.Name != "kubernetes" {
			return "Service default/kubernetes"
		}
	case a.addresses.dns():
		if a.service.Namespace != metav1.NamespaceSystem && a.service.Namespace != systemNamespace {
			return "the cluster's DNS"
		}
	}
	return ""
}

func (a *allocator) drawAddress(ctx context.Context) (address string, found bool, err error) {
	if spare := a.takeSpare(dnetworkingv1alpha1.ServiceIP); spare != "" {
		return spare, true, nil
	}
	if a.service.Namespace == metav1.NamespaceDefault && a.service.Name == "kubernetes" {
		address := a.addresses.api()
		taken, err := a.tryTake(ctx, allocation.ServiceIP(address, a.owner))
		return address.String(), taken, err
	}
	for offset := range a.addresses.draw {
		candidate := a.addresses.at(offset)
		if candidate == a.addresses.api() || candidate == a.addresses.dns() {
			continue
		}
		taken, err := a.tryTake(ctx, allocation.ServiceIP(candidate, a.owner))
		if taken || err != nil {
			return candidate.String(), taken, err
		}
	}
	return "", false, nil
}

// nodePorts gives each port its node port. Ports of one number and different protocols share one, as
// upstream has it.
func (a *allocator) nodePorts(ctx context.Context) error {
	spec := &a.service.Spec
	if !mayHaveNodePorts(spec) {
		return nil
	}
	// Those that are asked for are claimed first, so that no draw takes them.
	requested := map[int32]int32{}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		if port.NodePort == 0 {
			continue
		}
		if requested[port.Port] == 0 {
			requested[port.Port] = port.NodePort
		}
		if err := a.takePort(ctx, port.NodePort, "nodePort"); err != nil {
			return err
		}
	}
	if !wantsNodePorts(spec) {
		return nil
	}
	used := sets.New[int32]()
	for i := range spec.Ports {
		port := &spec.Ports[i]
		if port.NodePort != 0 {
			continue
		}
		if shared := requested[port.Port]; shared != 0 {
			port.NodePort = shared
			continue
		}
		drawn, found, err := a.drawPort(ctx, used)
		if err != nil {
			return err
		}
		if !found {
			a.problem(dcorev1.ServiceNodePortsExhausted, "no port is left in the node port range %s", a.ports)
			return nil
		}
		used.Insert(drawn)
		port.NodePort, requested[port.Port] = drawn, drawn
	}
	return nil
}

func (a *allocator) healthCheckNodePort(ctx context.Context) error {
	spec := &a.service.Spec
	if spec.Type != corev1.ServiceTypeLoadBalancer || spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nil
	}
	if spec.HealthCheckNodePort != 0 {
		return a.takePort(ctx, spec.HealthCheckNodePort, "healthCheckNodePort")
	}
	port, found, err := a.drawPort(ctx, nil)
	if err != nil {
		return err
	}
	if !found {
		a.problem(dcorev1.ServiceNodePortsExhausted, "no port is left in the node port range %s", a.ports)
		return nil
	}
	spec.HealthCheckNodePort = port
	return nil
}

func (a *allocator) takePort(ctx context.Context, port int32, field string) error {
	if !a.ports.contains(port) {
		a.problem(dcorev1.ServiceNodePortOutOfRange, "%s %d is not in the valid range. The range of valid ports is %s", field, port, a.ports)
		return nil
	}
	return a.take(ctx, allocation.NodePort(port, a.owner), dcorev1.ServiceNodePortTaken, field)
}

func (a *allocator) drawPort(ctx context.Context, used sets.Set[int32]) (port int32, found bool, err error) {
	if spare := a.takeSpare(dnetworkingv1alpha1.NodePort); spare != "" {
		number, err := strconv.ParseInt(spare, 10, 32)
		return int32(number), err == nil, err
	}
	for candidate := range a.ports.draw {
		if used.Has(candidate) {
			continue
		}
		taken, err := a.tryTake(ctx, allocation.NodePort(candidate, a.owner))
		if taken || err != nil {
			return candidate, taken, err
		}
	}
	return 0, false, nil
}

// takeSpare uses up a claim that the spec does not show yet.
func (a *allocator) takeSpare(kind dnetworkingv1alpha1.AllocationType) string {
	for i, claim := range a.spare {
		if claim.Spec.Type == kind {
			a.spare = append(a.spare[:i:i], a.spare[i+1:]...)
			return claim.Spec.Value
		}
	}
	return ""
}

// take claims what the spec names; that somebody else has it is a problem.
func (a *allocator) take(ctx context.Context, claim *dnetworkingv1alpha1.Allocation, reason, field string) error {
	if a.held(ctx, claim) == own {
		return nil
	}
	err := a.claims.Take(ctx, claim)
	var taken *claims.TakenError
	if errors.As(err, &taken) {
		a.problem(reason, "%s %v", field, taken)
		return nil
	}
	return err
}

// tryTake claims what was drawn; false means that somebody has it.
func (a *allocator) tryTake(ctx context.Context, claim *dnetworkingv1alpha1.Allocation) (bool, error) {
	if a.held(ctx, claim) != nobody {
		return false, nil
	}
	err := a.claims.Take(ctx, claim)
	var taken *claims.TakenError
	if errors.As(err, &taken) {
		return false, nil
	}
	return err == nil, err
}

type holder int

const (
	nobody holder = iota
	own
	other
)

// held says who has a claim as far as the cache knows: it saves the API the attempts that are in vain.
func (a *allocator) held(ctx context.Context, claim *dnetworkingv1alpha1.Allocation) holder {
	known := &dnetworkingv1alpha1.Allocation{}
	err := a.claims.Client.Get(ctx, client.ObjectKeyFromObject(claim), known, client.UnsafeDisableDeepCopy)
	switch {
	case err != nil:
		return nobody
	case known.Spec.Owner == a.owner:
		return own
	}
	return other
}

func (a *allocator) problem(reason, format string, arguments ...any) {
	a.problems = append(a.problems, problem{reason, fmt.Sprintf(format, arguments...)})
}

// release gives back the claims that the service no longer needs. Its spec is read anew first: a cache
// that is behind must not give away what a newer spec shows.
func (r *reconciler) release(ctx context.Context, service *dcorev1.Service) error {
	owner := claims.OwnerOf(claims.Service, service)
	owned, err := r.claims.Of(ctx, owner)
	if err != nil {
		return err
	}
	excess := func(spec *corev1.ServiceSpec) (list []*dnetworkingv1alpha1.Allocation) {
		shown := shownIn(spec)
		for i := range owned {
			if !shown.Has(owned[i].Name) {
				list = append(list, &owned[i])
			}
		}
		return list
	}
	if len(excess(&service.Spec)) == 0 {
		return nil
	}
	current := &dcorev1.Service{}
	if err := r.claims.Live.Get(ctx, client.ObjectKeyFromObject(service), current); err != nil {
		return client.IgnoreNotFound(err)
	}
	if current.ResourceVersion != service.ResourceVersion {
		return apierrors.NewConflict(dcorev1.Resource("services"), service.Name, errors.New("the cache is behind"))
	}
	for _, claim := range excess(&current.Spec) {
		if err := r.claims.Drop(ctx, claim); err != nil {
			return err
		}
	}
	return nil
}

// shownIn returns the names of the claims that a spec shows.
func shownIn(spec *corev1.ServiceSpec) sets.Set[string] {
	shown := sets.New[string]()
	var nobody dnetworkingv1alpha1.AllocationOwner
	for _, text := range append([]string{spec.ClusterIP}, spec.ClusterIPs...) {
		if address, err := netip.ParseAddr(text); err == nil {
			shown.Insert(allocation.ServiceIP(address, nobody).Name)
		}
	}
	for i := range spec.Ports {
		if port := spec.Ports[i].NodePort; port != 0 {
			shown.Insert(allocation.NodePort(port, nobody).Name)
		}
	}
	if spec.HealthCheckNodePort != 0 {
		shown.Insert(allocation.NodePort(spec.HealthCheckNodePort, nobody).Name)
	}
	return shown
}

func wantsClusterIP(spec *corev1.ServiceSpec) bool {
	return spec.Type != corev1.ServiceTypeExternalName && spec.ClusterIP != corev1.ClusterIPNone
}

func mayHaveNodePorts(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
}

// wantsNodePorts tells whether ports without a node port get one.
func wantsNodePorts(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort ||
		spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(spec.AllocateLoadBalancerNodePorts, true)
}
