package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// advertiseAddress picks the address that others most likely reach a listener at: its own, or else that of
// the interface with the default route. A machine without any route serves itself only.
func advertiseAddress(bind net.IP) string {
	if !bind.IsUnspecified() {
		return bind.String()
	}
	if ip, err := utilnet.ResolveBindAddress(bind); err == nil {
		return ip.String()
	}
	return net.IPv4(127, 0, 0, 1).String()
}

// listen opens the API server's port before anything else starts.
func listen(ctx context.Context, config *Config) (net.Listener, error) {
	address := net.JoinHostPort(config.BindAddress, strconv.Itoa(config.Port))
	// "tcp" would take 0.0.0.0 for both families, and the server would talk to itself at ::1, which is not
	// there where IPv6 is switched off.
	network := "tcp"
	if net.ParseIP(config.BindAddress).To4() != nil {
		network = "tcp4"
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("listening on %s: the port is already in use: stop what uses it, or choose another with --port", address)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listening on %s: this machine does not have the address: choose another with --bind-address", address)
	case err != nil:
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return listener, nil
}
