package controlplane

import (
	"net"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// advertiseAddress picks the address that others most likely reach a listener at: its own, or else that of
// the interface with the default route. A machine without any route serves itself only.
func advertiseAddress(bind net.IP) string {
	if ip, err := utilnet.ResolveBindAddress(bind); err == nil {
		return ip.String()
	}
	return net.IPv4(127, 0, 0, 1).String()
}
