package app

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/detached"
	"drayage.dev/network/cniserver"
	"drayage.dev/network/health"
	"drayage.dev/network/nftables"
	"drayage.dev/network/peers"
	"drayage.dev/network/podnet"
	"drayage.dev/network/proxy"
	"drayage.dev/network/withdrawal"
)

// openNetwork makes the parts of the node's network; they do nothing yet.
func (a *agent) openNetwork(ctx context.Context, _ context.CancelCauseFunc) (err error) {
	log := a.log.WithName("network")
	a.network, err = podnet.New(podnet.Config{
		StateDir: a.agentDir("network"), NodeAddresses: a.addresses, PodRanges: a.podRanges, ServiceRanges: a.serviceRanges,
		Shared: a.InCluster, Log: log,
	})
	if err != nil {
		return err
	}
	if a.services, err = nftables.New(""); err != nil {
		return err
	}
	// The network does not wait for the API: it goes on with what it knows.
	pods, err := a.cache.GetInformer(ctx, &dcorev1.Pod{}, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	a.health = health.New(health.Config{Log: log})
	a.proxy = proxy.New(proxy.Config{
		Node: proxy.Node{Name: a.NodeName, Addresses: a.addresses}, RESTConfig: a.rest, Backend: a.services,
		Pods: pods, Checks: a.health.Set, Log: log.WithName("proxy"),
	})
	a.withdrawal, err = withdrawal.New(withdrawal.Config{Node: a.NodeName, RESTConfig: a.rest, Proxy: a.proxy, Log: log})
	return err
}

// startNetwork answers the runtime's plugin, keeps the node's routes, and has services reached by address
// and by name.
func (a *agent) startNetwork(ctx context.Context, cancel context.CancelCauseFunc) error {
	a.part(ctx, cancel, "wiring pods", func(ctx context.Context) error {
		return cniserver.Serve(ctx, a.cniSocket(), a.network, func(err error) bool { return errors.Is(err, podnet.ErrNoPodRange) })
	})
	a.part(ctx, cancel, "keeping the network", a.network.Run)
	a.part(ctx, cancel, "keeping the services", a.proxy.Run)
	a.part(ctx, cancel, "answering load balancers", a.health.Run)
	a.part(ctx, cancel, "acknowledging endpoints", a.withdrawal.Run)
	a.part(ctx, cancel, "following the other nodes", func(ctx context.Context) error {
		return peers.Follow(ctx, peers.Config{
			Node: a.NodeName, RESTConfig: a.rest, Network: a.network, Told: a.reporter.Nudge, Log: a.log.WithName("network"),
		})
	})
	if a.Kubeconfig == "" || len(a.dns) == 0 {
		// A process of its own needs a way to the API of its own.
		return nil
	}
	server := dnsServer(a.Config)
	server.Command, server.LogFile, server.Started = a.dnsCommand(), a.agentDir("dns.log"), func(pid int) error {
		return a.tree.Place(a.CgroupRoot+"/dns", pid)
	}
	a.part(ctx, cancel, "keeping the DNS server", server.Keep)
	return nil
}

// dnsServer is the node's DNS server, as far as it takes to find it.
func dnsServer(config Config) detached.Process {
	return detached.Process{Name: "dns", LockFile: dnsLockFile(config)}
}

func dnsLockFile(config Config) string { return config.agentDir("dns.lock") }

func (a *agent) dnsCommand() []string {
	command := []string{
		a.dnsProgram, "--kubeconfig", a.Kubeconfig, "--bind-address", a.dns[0].String(), "--domain", a.ClusterDomain,
		"--ranges", strings.Join([]string{a.PodCIDR, a.ServiceCIDR}, ","), "--resolv-conf", a.ResolvConf,
		"--snapshot-file", a.agentDir("dns.json"), "--lock-file", dnsLockFile(a.Config),
		"--listen-address", a.DNSListenAddress,
	}
	for _, stub := range a.StubDomains {
		command = append(command, "--stub-domain", stub)
	}
	if a.DNSSecureListenAddress != "" {
		command = append(command, "--secure-listen-address", a.DNSSecureListenAddress)
		if a.ClientCAFile != "" {
			command = append(command, "--client-ca-file", a.ClientCAFile)
		}
	}
	if a.HostDNS != "" {
		command = append(command, "--upstreams", a.HostDNS, "--shared-domain")
	}
	return append(command, a.DNSArguments...)
}

// followNode passes the Node's pod addresses to the network, and the Node to those who admit pods.
func (a *agent) followNode(ctx context.Context, _ context.CancelCauseFunc) error {
	informer, err := a.cache.GetInformer(ctx, &dcorev1.Node{})
	if err != nil {
		return err
	}
	seen := func(object any) {
		node, ok := object.(*dcorev1.Node)
		if !ok {
			return
		}
		a.reporter.Observe(node)
		ranges := node.Spec.PodCIDRs
		if len(ranges) == 0 && node.Spec.PodCIDR != "" {
			ranges = []string{node.Spec.PodCIDR}
		}
		var own []netip.Prefix
		for _, text := range ranges {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				own = append(own, prefix)
			}
		}
		if len(own) > 0 {
			if err := a.network.SetPodCIDRs(ctx, own); err != nil {
				a.log.Error(err, "Pod addresses not taken over", "ranges", ranges)
			}
			a.reporter.Nudge()
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, object any) { seen(object) },
	})
	return err
}
