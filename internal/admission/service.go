package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	util "k8s.io/kubernetes/pkg/api/v1/service"
	"k8s.io/kubernetes/pkg/apis/core"
	serviceregistry "k8s.io/kubernetes/pkg/registry/core/service"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// prepareService does for a new service what upstream's REST layer does in front of its strategy, except
// for what needs an allocator: the service controller sets cluster address and node ports afterwards, and
// validation lets a service without them pass at creation and the first setting of them in an update.
func prepareService(ctx context.Context, service *corev1.Service) (warnings []string, errs field.ErrorList) {
	legacyscheme.Scheme.Default(service)
	if service.Spec.ClusterIP != "" && len(service.Spec.ClusterIPs) == 0 {
		service.Spec.ClusterIPs = []string{service.Spec.ClusterIP}
	}
	errs = refuseService(service)
	errs = append(errs, chooseFamilies(service, nil)...)
	defer promiseHealthCheckPort(service)()
	warnings, more := create(ctx, serviceregistry.Strategy, service, &core.Service{})
	return warnings, append(errs, more...)
}

// prepareServiceUpdate is prepareService for a change. A client that sends its manifest again keeps what
// was allocated.
func prepareServiceUpdate(ctx context.Context, service, old *corev1.Service) (warnings []string, errs field.ErrorList) {
	legacyscheme.Scheme.Default(service)
	legacyscheme.Scheme.Default(old)
	keepAllocated(service, old)
	alignClusterIPs(service, old)
	errs = refuseService(service)
	errs = append(errs, chooseFamilies(service, old)...)
	if util.NeedsHealthCheck(old) && old.Spec.HealthCheckNodePort == 0 {
		// What is set for the first time is no change.
		old.Spec.HealthCheckNodePort = service.Spec.HealthCheckNodePort
	}
	defer promiseHealthCheckPort(service)()
	defer promiseHealthCheckPort(old)()
	warnings, more := update(ctx, serviceregistry.Strategy, service, &core.Service{}, old, &core.Service{})
	return warnings, append(errs, more...)
}

// promisedPort stands for a health check port that the service controller will set: upstream has allocated
// one when it validates.
const promisedPort = 65535

// promiseHealthCheckPort sets a health check port where one is needed and none is there yet, until the
// returned function is called.
func promiseHealthCheckPort(service *corev1.Service) (done func()) {
	if !util.NeedsHealthCheck(service) || service.Spec.HealthCheckNodePort != 0 {
		return func() {}
	}
	service.Spec.HealthCheckNodePort = promisedPort
	return func() { service.Spec.HealthCheckNodePort = 0 }
}

func refuseService(service *corev1.Service) field.ErrorList {
	return serviceMatcher.refused(service, nil, nil)
}

func hasClusterIP(service *corev1.Service) bool {
	return service.Spec.Type != corev1.ServiceTypeExternalName
}

func hasNodePorts(service *corev1.Service) bool {
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return ptr.Deref(service.Spec.AllocateLoadBalancerNodePorts, true)
	}
	return false
}

// keepAllocated fills in the addresses, node ports and health check port that old has and an update leaves out.
func keepAllocated(service, old *corev1.Service) {
	if hasClusterIP(service) && hasClusterIP(old) {
		if service.Spec.ClusterIP == "" {
			service.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(service.Spec.ClusterIPs) == 0 {
			service.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if util.NeedsHealthCheck(service) && util.NeedsHealthCheck(old) && service.Spec.HealthCheckNodePort == 0 {
		service.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
	if !hasNodePorts(service) || !hasNodePorts(old) {
		return
	}
	taken, byName := map[int32]bool{}, map[string]int32{}
	for _, port := range service.Spec.Ports {
		taken[port.NodePort] = true
	}
	for _, port := range old.Spec.Ports {
		byName[port.Name] = port.NodePort
	}
	for i := range service.Spec.Ports {
		port := &service.Spec.Ports[i]
		if known := byName[port.Name]; port.NodePort == 0 && !taken[known] {
			port.NodePort = known
		}
	}
}

// alignClusterIPs keeps the singular and the plural address field in step where an update changes only
// one of them; upstream's rules. What it cannot align, validation refuses.
func alignClusterIPs(service, old *corev1.Service) {
	was, is := &old.Spec, &service.Spec
	if len(is.ClusterIPs) == 0 && was.ClusterIP == is.ClusterIP {
		is.ClusterIPs = slices.Clone(was.ClusterIPs)
	}
	if was.ClusterIP == is.ClusterIP || !slices.Equal(was.ClusterIPs, is.ClusterIPs) {
		return
	}
	is.ClusterIPs = nil
	if is.ClusterIP != "" {
		is.ClusterIPs = []string{is.ClusterIP}
	}
}

// chooseFamilies sets the IP family fields as upstream does on a cluster of IPv4 only. A headless service
// without selector becomes IPv4 as well, where upstream would claim both families.
func chooseFamilies(service, old *corev1.Service) (errs field.ErrorList) {
	if !hasClusterIP(service) {
		return nil
	}
	spec, path := &service.Spec, field.NewPath("spec")
	switch {
	case spec.IPFamilyPolicy != nil:
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		spec.IPFamilyPolicy = ptr.To(*old.Spec.IPFamilyPolicy)
	default:
		spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, address := range spec.ClusterIPs {
		if netutils.IsIPv6String(address) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(i), spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", corev1.IPv6Protocol)))
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return errs
}
