package proxy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"drayage.dev/network/spec"
)

// hostPorts are the ports of a pod that the node's addresses lead to; none when the pod has the node's own
// network, or runs no more.
func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var ports []corev1.ContainerPort
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, container := range containers {
			for _, port := range container.Ports {
				if port.HostPort > 0 {
					ports = append(ports, port)
				}
			}
		}
	}
	return ports
}

// compilePod returns the frontends of a pod's host ports, each on the port's address or on all of the
// node's. Clients keep their address: replies come back through the node anyway.
func compilePod(node Node, pod *corev1.Pod) map[spec.Key]*spec.Frontend {
	frontends := map[spec.Key]*spec.Frontend{}
	own := parse([]string{pod.Status.PodIP})
	for _, ip := range pod.Status.PodIPs {
		own = append(own, parse([]string{ip.IP})...)
	}
	for _, port := range hostPorts(pod) {
		proto, ok := protocols[port.Protocol]
		if !ok {
			continue
		}
		at := node.Addresses
		if asked := parse([]string{port.HostIP}); len(asked) > 0 && !asked[0].IsUnspecified() {
			at = asked
		}
		for _, address := range at {
			for _, target := range own {
				if target.Is4() == address.Is4() {
					frontends[spec.Key{Addr: address, Proto: proto, Port: uint16(port.HostPort)}] = &spec.Frontend{
						Slots: []netip.AddrPort{netip.AddrPortFrom(target, uint16(port.ContainerPort))},
						Local: []netip.Addr{target},
					}
					break
				}
			}
		}
	}
	return frontends
}
