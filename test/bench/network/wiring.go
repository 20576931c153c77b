package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"drayage.dev/network/cni"
	"drayage.dev/network/cniserver"
	"drayage.dev/network/netlab"
	"drayage.dev/network/podnet"
	"drayage.dev/test/cluster"
)

// peerPlugins is where Debian's containernetworking-plugins are.
const peerPlugins = "/usr/lib/cni"

// wirer wires pods by executing a CNI plugin as container runtimes do.
type wirer struct {
	node   *netlab.Namespace
	plugin string
	config []byte
}

// measureWiring wires and unwires pods by our plugin (with the agent's server behind it) and by the
// reference plugins ptp and host-local, in turns.
func measureWiring(ctx context.Context, o options, results *report) (err error) {
	dir, err := os.MkdirTemp("", "bench-wiring-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var both [2]*wirer
	for i := range both {
		node, err := netlab.NewNode()
		if err != nil {
			return err
		}
		defer func() { _ = node.Delete() }()
		both[i] = &wirer{node: node.Namespace}
	}
	stop, err := both[0].ours(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := both[1].peers(dir); err != nil {
		return err
	}
	var add, remove [2][]time.Duration
	for n := range o.pods {
		for i, w := range both {
			added, removed, err := w.wire(ctx, fmt.Sprint("pod-", n))
			if err != nil {
				return err
			}
			add[i], remove[i] = append(add[i], added), append(remove[i], removed)
		}
	}
	results.add("wiring/add-p50", "ms per pod", microseconds(percentile(add[0], 50))/1000, microseconds(percentile(add[1], 50))/1000)
	results.add("wiring/del-p50", "ms per pod", microseconds(percentile(remove[0], 50))/1000, microseconds(percentile(remove[1], 50))/1000)
	return nil
}

// ours serves our plugin as the agent does.
func (w *wirer) ours(ctx context.Context, dir string) (stop func() error, err error) {
	manager, err := podnet.New(podnet.Config{
		StateDir: dir, NodeAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, NetNS: w.node.Path,
		PodRanges: []netip.Prefix{podRange}, ServiceRanges: []netip.Prefix{serviceRange},
	})
	if err != nil {
		return nil, err
	}
	if err := manager.SetPodCIDRs(ctx, []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}); err != nil {
		return nil, errors.Join(err, manager.Close())
	}
	socket := filepath.Join(dir, "cni.sock")
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- cniserver.Serve(ctx, socket, manager, nil) }()
	w.plugin = cluster.Binary(cni.Plugin)
	var list struct {
		Plugins []map[string]any `json:"plugins"`
	}
	raw, err := cni.NetworkConfig(socket)
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	if err == nil {
		w.config, err = configure(list.Plugins[0])
	}
	return func() error { cancel(); return errors.Join(<-served, manager.Close()) }, err
}

// peers takes the plugins that come nearest to ours: a routed veth per pod.
func (w *wirer) peers(dir string) (err error) {
	w.plugin = filepath.Join(peerPlugins, "ptp")
	w.config, err = configure(map[string]any{
		"type": "ptp", "ipam": map[string]any{"type": "host-local", "subnet": "10.244.2.0/24", "dataDir": filepath.Join(dir, "host-local")},
	})
	return err
}

func configure(plugin map[string]any) ([]byte, error) {
	plugin["cniVersion"], plugin["name"] = "1.0.0", "bench"
	return json.Marshal(plugin)
}

// wire makes a pod's namespace, wires and unwires it.
func (w *wirer) wire(ctx context.Context, pod string) (added, removed time.Duration, err error) {
	ns, err := netlab.New()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, ns.Delete()) }()
	if added, err = w.call(ctx, cni.Add, pod, ns.Path); err != nil {
		return 0, 0, err
	}
	removed, err = w.call(ctx, cni.Del, pod, ns.Path)
	return added, removed, err
}

func (w *wirer) call(ctx context.Context, command, pod, ns string) (took time.Duration, err error) {
	err = w.node.Do(func() error {
		run := exec.CommandContext(ctx, w.plugin)
		run.Env = []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + pod, "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=" + peerPlugins,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + pod + ";K8S_POD_UID=" + pod,
		}
		run.Stdin = bytes.NewReader(w.config)
		begun := time.Now()
		output, err := run.CombinedOutput()
		took = time.Since(begun)
		if err != nil {
			return fmt.Errorf("%s %s: %w: %s", w.plugin, command, err, output)
		}
		return nil
	})
	return took, err
}
