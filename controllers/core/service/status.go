package service

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
)

const (
	// maxIngress is how many nodes a load balancer's status names at most: enough to spread clients over,
	// and few enough that a node's coming and going costs little.
	maxIngress = 16
	// addressWidth is where kubectl cuts the addresses of a load balancer.
	addressWidth = 16
)

// newStatus says how the service is doing, in every part that this controller owns.
func newStatus(service *dcorev1.Service, nodes []dcorev1.Node, problems []problem) dcorev1.ServiceStatus {
	status := *service.Status.DeepCopy()
	status.ObservedGeneration = service.Generation
	switch {
	case service.Spec.Type != corev1.ServiceTypeLoadBalancer:
		status.LoadBalancer = corev1.LoadBalancerStatus{}
	case service.Spec.LoadBalancerClass == nil:
		status.LoadBalancer.Ingress = ingress(nodes)
	}

	ready := metav1.Condition{Type: dcorev1.ServiceReady, Status: metav1.ConditionTrue, Reason: dcorev1.ServiceAllocated,
		Message: "The service has its addresses and ports."}
	// Of the other two at most one is there, and then it is true and says the same as Ready.
	other := ""
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer && len(status.LoadBalancer.Ingress) == 0 {
		other = dcorev1.ServiceReconciling
		ready.Status, ready.Reason = metav1.ConditionFalse, dcorev1.ServiceAddressPending
		ready.Message = "The load balancer has no address yet: no node is ready."
		if service.Spec.LoadBalancerClass != nil {
			ready.Message = fmt.Sprintf("The load balancer has no address yet: the controller of class %q sets it.", *service.Spec.LoadBalancerClass)
		}
	}
	if len(problems) > 0 {
		messages := make([]string, len(problems))
		for i, p := range problems {
			messages[i] = p.message
		}
		message := strings.Join(messages, "; ") + ". Ask for another one, leave the field out, or delete the holder."
		other = dcorev1.ServiceStalled
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, problems[0].reason, message
	}
	ready.ObservedGeneration = service.Generation
	meta.SetStatusCondition(&status.Conditions, ready)
	for _, kind := range []string{dcorev1.ServiceReconciling, dcorev1.ServiceStalled} {
		if kind != other {
			meta.RemoveStatusCondition(&status.Conditions, kind)
			continue
		}
		condition := ready
		condition.Type, condition.Status = kind, metav1.ConditionTrue
		meta.SetStatusCondition(&status.Conditions, condition)
	}
	status.Summary = dcorev1.ServiceSummary{
		ExternalIP: externalIP(&service.Spec, status.LoadBalancer.Ingress), Ports: portsOf(service.Spec.Ports),
	}
	return status
}

// ingress lists where load balancers are reached: at the ready nodes, those outside the cluster know by
// their external address first.
func ingress(nodes []dcorev1.Node) []corev1.LoadBalancerIngress {
	var list []corev1.LoadBalancerIngress
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b dcorev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	for i := range nodes {
		if len(list) == maxIngress {
			break
		}
		if address := balances(&nodes[i]); address != "" {
			list = append(list, corev1.LoadBalancerIngress{IP: address, IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
		}
	}
	return list
}

// balances returns the address at which a node serves load balancers, or nothing when it does not.
func balances(node *dcorev1.Node) string {
	if _, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]; excluded || node.DeletionTimestamp != nil {
		return ""
	}
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if !ready {
		return ""
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for _, address := range node.Status.Addresses {
			if address.Type == kind {
				return address.Address
			}
		}
	}
	return ""
}

// externalIP is the column of that name, as kubectl prints it.
func externalIP(spec *corev1.ServiceSpec, ingress []corev1.LoadBalancerIngress) string {
	list := slices.Clone(spec.ExternalIPs)
	none := "<none>"
	switch spec.Type {
	case corev1.ServiceTypeExternalName:
		return spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		none = "<pending>"
		var at []string
		for _, entry := range ingress {
			at = append(at, cmp.Or(entry.IP, entry.Hostname))
		}
		slices.Sort(at)
		text := strings.Join(slices.Compact(at), ",")
		if len(text) > addressWidth {
			text = text[:addressWidth-3] + "..."
		}
		if text != "" {
			list = append([]string{text}, list...)
		}
	}
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ",")
}

// portsOf is the column of ports, as kubectl prints it.
func portsOf(ports []corev1.ServicePort) string {
	list := make([]string, len(ports))
	for i, port := range ports {
		list[i] = fmt.Sprintf("%d/%s", port.Port, port.Protocol)
		if port.NodePort > 0 {
			list[i] = fmt.Sprintf("%d:%d/%s", port.Port, port.NodePort, port.Protocol)
		}
	}
	if len(list) == 0 {
		return "<none>"
	}
	return strings.Join(list, ",")
}
