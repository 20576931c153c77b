// Command dray-cni is the network plugin that the container runtime calls (CNI). It passes each call to
// the node's agent, whose socket stands in the network configuration, and has no logic of its own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"drayage.dev/network/cni"
)

const (
	// addTimeout outlasts the agent's own bound, so that its error is the one that is heard.
	addTimeout = 35 * time.Second
	// delTimeout is short: what a DEL leaves undone, the agent's start repairs.
	delTimeout = 5 * time.Second
)

func main() {
	functions := skel.CNIFuncs{Add: add, Del: del, Check: check}
	if filepath.Base(os.Args[0]) == loopbackName {
		functions = loopback()
	}
	skel.PluginMainFuncs(functions,
		version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), "dray-cni passes calls to Drayage's node agent")
}

func call(command string, args *skel.CmdArgs, timeout time.Duration) (cni.Config, cni.Response, error) {
	var config cni.Config
	if err := json.Unmarshal(args.StdinData, &config); err != nil {
		return config, cni.Response{}, types.NewError(types.ErrDecodingFailure, "reading the network configuration", err.Error())
	}
	if config.Socket == "" {
		return config, cni.Response{}, types.NewError(types.ErrInvalidNetworkConfig, `the network configuration names no "socket"`, "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	response, err := cni.Call(ctx, config.Socket, cni.NewRequest(command, args.ContainerID, args.Netns, args.Args))
	if errors.Is(err, cni.ErrAway) {
		return config, response, types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	if err != nil {
		return config, response, types.NewError(types.ErrIOFailure, err.Error(), "")
	}
	if response.Error != "" {
		code := types.ErrInternal
		if response.TryAgain {
			code = types.ErrTryAgainLater
		}
		return config, response, types.NewError(code, response.Error, "")
	}
	return config, response, nil
}

func add(args *skel.CmdArgs) error {
	if args.IfName != "eth0" {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_IFNAME is %q; pods have one interface, eth0", args.IfName), "")
	}
	config, response, err := call(cni.Add, args, addTimeout)
	if err != nil {
		return err
	}
	result := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: response.HostInterface, Mtu: response.MTU},
			{Name: args.IfName, Mac: response.MAC, Mtu: response.MTU, Sandbox: args.Netns},
		},
	}
	for _, address := range response.Addresses {
		bits := address.BitLen()
		result.IPs = append(result.IPs, &current.IPConfig{
			Interface: current.Int(1),
			Address:   net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(bits, bits)},
		})
		result.Routes = append(result.Routes, &types.Route{
			Dst: net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
		})
	}
	return types.PrintResult(result, config.CNIVersion)
}

// del succeeds while the agent is away: the runtime must be able to end pods, and the agent gives back
// at its start what no living sandbox has.
func del(args *skel.CmdArgs) error {
	_, response, err := call(cni.Del, args, delTimeout)
	if err != nil && response.Error == "" {
		return nil
	}
	return err
}

func check(args *skel.CmdArgs) error {
	_, _, err := call(cni.Check, args, delTimeout)
	return err
}
