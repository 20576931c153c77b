package net

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// maxNamed bounds the pods that one sentence names.
const maxNamed = 5

// ready tells whether a node is there and Ready, and so can be asked.
func (c *check) ready(name string) bool {
	node := c.nodes[name]
	return node != nil && slices.ContainsFunc(node.Status.Conditions, func(condition corev1.NodeCondition) bool {
		return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
	})
}

func (c *check) checked(name string) subresourcesv1alpha1.CheckedNode {
	node := c.nodes[name]
	checked := subresourcesv1alpha1.CheckedNode{Name: name, PodCIDR: node.Spec.PodCIDR}
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP && checked.Address == "" {
			checked.Address = address.Address
		}
	}
	return checked
}

// node looks at what a node says of itself.
func (c *check) node(name string) error {
	node := c.nodes[name]
	if node == nil {
		return fmt.Errorf("node %q does not exist", name)
	}
	seen := false
	for _, condition := range node.Status.Conditions {
		switch {
		case condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue:
			seen = true
			c.broken("node %s is not Ready since %s: %s", name, condition.LastTransitionTime.UTC().Format("2006-01-02 15:04:05 UTC"), sentence(condition.Message))
		case condition.Type == corev1.NodeReady:
			seen = true
			c.ok("node %s is Ready", name)
		case condition.Type == corev1.NodeNetworkUnavailable && condition.Status != corev1.ConditionFalse:
			c.broken("the network of node %s is not available: %s", name, sentence(condition.Message))
		}
	}
	if !seen {
		c.broken("node %s has never said whether it is Ready: its agent has not begun to report.", name)
	}
	if c.checked(name).Address == "" {
		c.broken("node %s has no address of type InternalIP: nobody can reach it.", name)
	}
	return nil
}

// sentence ends a text as a sentence.
func sentence(text string) string { return strings.TrimSuffix(strings.TrimSpace(text), ".") + "." }

// pod looks at what the API says of a pod; nil when there is nothing more to look at. A pod with the
// node's own network has no UID.
func (c *check) pod(ctx context.Context, o object) (*subresourcesv1alpha1.CheckedPod, error) {
	pod := &dcorev1.Pod{}
	if err := c.api.Get(ctx, client.ObjectKey{Namespace: o.namespace, Name: o.name}, pod); err != nil {
		return nil, fmt.Errorf("reading %s: %w", o, err)
	}
	if pod.Spec.NodeName == "" {
		c.broken("%s is on no node: %s See dray explain pod %s.", o, sentence(conditionOf(pod, corev1.PodScheduled)), pod.Name)
		return nil, nil
	}
	if phase := pod.Status.Phase; phase == corev1.PodSucceeded || phase == corev1.PodFailed {
		c.broken("%s has ended (%s): it has no network any more.", o, phase)
		return nil, nil
	}
	if pod.DeletionTimestamp != nil {
		c.broken("%s is being deleted: services send it no new connections.", o)
	} else if !isReady(pod) {
		c.broken("%s is not Ready: %s Services send it nothing until it is.", o, sentence(conditionOf(pod, corev1.PodReady)))
	} else {
		c.ok("%s is Ready", o)
	}
	if c.nodes[pod.Spec.NodeName] == nil {
		c.broken("%s is on node %s, which does not exist.", o, pod.Spec.NodeName)
		return nil, nil
	}
	if err := c.node(pod.Spec.NodeName); err != nil {
		return nil, err
	}
	if pod.Status.PodIP == "" {
		c.broken("%s has no address: %s", o, sentence(conditionOf(pod, corev1.PodReadyToStartContainers)))
		return nil, nil
	}
	checked := &subresourcesv1alpha1.CheckedPod{
		Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), Address: pod.Status.PodIP, Node: pod.Spec.NodeName,
	}
	if pod.Spec.HostNetwork {
		checked.UID = ""
	}
	return checked, nil
}

func isReady(pod *dcorev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
		return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	})
}

// conditionOf is what a pod's condition says.
func conditionOf(pod *dcorev1.Pod, kind corev1.PodConditionType) string {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == kind && condition.Message != "" {
			return condition.Message
		}
	}
	if pod.Status.Summary.Status != "" {
		return "it is " + pod.Status.Summary.Status
	}
	return "its node has not said why"
}

// service looks at what the API says of a service and its endpoints; nil when there is nothing more to
// look at.
func (c *check) service(ctx context.Context, o object) (*subresourcesv1alpha1.CheckedService, error) {
	service := &dcorev1.Service{}
	key := client.ObjectKey{Namespace: o.namespace, Name: o.name}
	if err := c.api.Get(ctx, key, service); err != nil {
		return nil, fmt.Errorf("reading %s: %w", o, err)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		c.ok("%s is an alias of %s: DNS alone leads there", o, service.Spec.ExternalName)
		return &subresourcesv1alpha1.CheckedService{Namespace: o.namespace, Name: o.name}, nil
	}
	for _, condition := range service.Status.Conditions {
		if condition.Type == dcorev1.ServiceStalled && condition.Status == "True" {
			c.broken("%s cannot have what it asks for: %s", o, sentence(condition.Message))
		}
	}
	if service.Spec.ClusterIP == "" {
		c.broken("%s has no cluster address yet: the service controller gives it one; is the manager running?", o)
		return nil, nil
	}
	var slices ddiscoveryv1.EndpointSliceList
	if err := c.api.List(ctx, &slices, client.InNamespace(o.namespace), client.MatchingLabels{discoveryv1.LabelServiceName: o.name}); err != nil {
		return nil, fmt.Errorf("listing the endpoints of %s: %w", o, err)
	}
	checked := &subresourcesv1alpha1.CheckedService{Namespace: o.namespace, Name: o.name}
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		checked.Address = service.Spec.ClusterIP
	}
	empty := true
	for _, port := range service.Spec.Ports {
		endpoints := endpointsOf(slices.Items, port)
		empty = empty && len(endpoints) == 0
		checked.Ports = append(checked.Ports, subresourcesv1alpha1.CheckedPort{Protocol: string(port.Protocol), Port: port.Port, Endpoints: endpoints})
	}
	if empty {
		return checked, c.empty(ctx, o, service, len(slices.Items))
	}
	for i, port := range service.Spec.Ports {
		if n := len(checked.Ports[i].Endpoints); n > 0 {
			c.ok("%s has %d endpoints for port %d", o, n, port.Port)
		} else {
			c.broken("%s has no endpoint for port %d: no pod of it has a port %s.", o, port.Port, port.TargetPort.String())
		}
	}
	return checked, nil
}

// endpointsOf are those that serve a port: the ready ones or, without any, those that are ending.
func endpointsOf(all []ddiscoveryv1.EndpointSlice, port corev1.ServicePort) []string {
	var ready, ending []string
	for _, slice := range all {
		at := slices.IndexFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Port != nil && ptr.Deref(p.Name, "") == port.Name && ptr.Deref(p.Protocol, corev1.ProtocolTCP) == port.Protocol
		})
		if at < 0 {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if len(endpoint.Addresses) == 0 {
				continue
			}
			address, err := netip.ParseAddr(endpoint.Addresses[0])
			if err != nil {
				continue
			}
			text := netip.AddrPortFrom(address, uint16(*slice.Ports[at].Port)).String()
			switch conditions := endpoint.Conditions; {
			case ptr.Deref(conditions.Ready, true):
				ready = append(ready, text)
			case ptr.Deref(conditions.Serving, true) && ptr.Deref(conditions.Terminating, false):
				ending = append(ending, text)
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.Sort(ready)
	return slices.Compact(ready)
}

// empty says why a service has no endpoint.
func (c *check) empty(ctx context.Context, o object, service *dcorev1.Service, slices int) error {
	if service.Spec.Selector == nil {
		c.broken("%s has no endpoint and no selector: whoever made it has to write its EndpointSlices.", o)
		return nil
	}
	selector := labels.SelectorFromSet(service.Spec.Selector)
	var pods dcorev1.PodList
	if err := c.api.List(ctx, &pods, client.InNamespace(o.namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return fmt.Errorf("listing the pods of %s: %w", o, err)
	}
	var unready []string
	ready := 0
	for i := range pods.Items {
		pod := &pods.Items[i]
		switch {
		case pod.DeletionTimestamp != nil:
			unready = append(unready, pod.Name+" is being deleted")
		case !isReady(pod):
			unready = append(unready, fmt.Sprintf("%s: %s", pod.Name, strings.TrimSuffix(conditionOf(pod, corev1.PodReady), ".")))
		default:
			ready++
		}
	}
	switch {
	case len(pods.Items) == 0:
		c.broken("%s has no endpoint: its selector %s matches no pod of namespace %s.", o, selector, o.namespace)
	case ready > 0 && slices == 0:
		c.broken("%s has no EndpointSlice, although %d of its pods are Ready: the endpoint slice controller writes them; is the manager running?", o, ready)
	case ready > 0:
		c.broken("%s has no endpoint, although %d of its pods are Ready: none of them has a port that the service names as targetPort.", o, ready)
	default:
		more := ""
		if len(unready) > maxNamed {
			more = fmt.Sprintf(" and %d more", len(unready)-maxNamed)
			unready = unready[:maxNamed]
		}
		c.broken("%s has no endpoint: of the %d pods that its selector %s matches none is Ready (%s%s).", o, len(pods.Items), selector, strings.Join(unready, "; "), more)
	}
	return nil
}
