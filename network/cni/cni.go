package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	// Plugin is the plugin's name, which is its file name in the runtime's directory of plugins.
	Plugin = "dray-cni"

	// NetworkName is the name of the one network.
	NetworkName = "drayage"

	// specVersion is the version of the CNI specification of the network configuration: the newest
	// one that containerd 1.6 speaks.
	specVersion = "1.0.0"
)

// Commands of a Request, as in CNI_COMMAND.
const (
	Add   = "ADD"
	Del   = "DEL"
	Check = "CHECK"
)

// ErrAway says that nobody listens on the agent's socket.
var ErrAway = errors.New("the node's agent does not answer on its socket")

// Config is the plugin's network configuration.
type Config struct {
	types.PluginConf
	// Socket is the path of the agent's socket.
	Socket string `json:"socket"`
}

// NetworkConfig is the content of the file (a .conflist) for the runtime's directory of network
// configurations; socket is the path of the agent's socket.
func NetworkConfig(socket string) ([]byte, error) {
	plugin := map[string]any{"type": Plugin, "socket": socket}
	return json.MarshalIndent(map[string]any{
		"cniVersion": specVersion, "name": NetworkName, "plugins": []any{plugin},
	}, "", "  ")
}

// Request is one call of the plugin.
type Request struct {
	Command string `json:"command"`
	// Sandbox is CNI_CONTAINERID, NetNS the path of the network namespace (it may be empty on DEL).
	Sandbox string `json:"sandbox"`
	NetNS   string `json:"netNS,omitempty"`
	// Namespace, Name and UID are the pod's, from CNI_ARGS.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// NewRequest reads the pod from CNI_ARGS ("K8S_POD_NAME=web;K8S_POD_UID=...").
func NewRequest(command, sandbox, netNS, args string) Request {
	request := Request{Command: command, Sandbox: sandbox, NetNS: netNS}
	for pair := range strings.SplitSeq(args, ";") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "K8S_POD_NAMESPACE":
			request.Namespace = value
		case "K8S_POD_NAME":
			request.Name = value
		case "K8S_POD_UID":
			request.UID = value
		}
	}
	return request
}

// Response answers a Request.
type Response struct {
	// Error is empty on success; TryAgain says that the cause passes by itself.
	Error    string `json:"error,omitempty"`
	TryAgain bool   `json:"tryAgain,omitempty"`

	Addresses     []netip.Addr `json:"addresses,omitempty"`
	HostInterface string       `json:"hostInterface,omitempty"`
	MAC           string       `json:"mac,omitempty"`
	MTU           int          `json:"mtu,omitempty"`
}

// Call sends the request to the agent. It answers ErrAway (wrapped) when nobody listens.
func Call(ctx context.Context, socket string, request Request) (Response, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return Response{}, fmt.Errorf("%w %s: %w", ErrAway, socket, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var response Response
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return response, fmt.Errorf("sending %s to the node's agent: %w", request.Command, err)
	}
	if err := json.NewDecoder(conn).Decode(&response); err != nil {
		return response, fmt.Errorf("reading the answer of the node's agent to %s: %w", request.Command, err)
	}
	return response, nil
}
