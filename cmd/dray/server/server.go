package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/apiserver"
	managerapp "drayage.dev/cmd/dray-manager/app"
	schedulerapp "drayage.dev/cmd/dray-scheduler/app"
	"drayage.dev/cmd/replicas"
	"drayage.dev/config"
	"drayage.dev/controlplane"
	"drayage.dev/internal/garbage"
	"drayage.dev/webhooks"
)

// Components that --disable leaves out, so that they can run as processes of their own.
const (
	Manager   = "manager"
	Scheduler = "scheduler"
)

// restartDelay is how long a component that ended with an error rests before it starts anew.
const restartDelay = 2 * time.Second

// The pace of the elections among servers that share an etcd, as in the chart: a successor acts in under five seconds.
const (
	leaseDuration = 3 * time.Second
	renewDeadline = 2500 * time.Millisecond
	retryPeriod   = 400 * time.Millisecond
)

// Config is what a server is told.
type Config struct {
	// ControlPlane configures the API server; Run adds what the product brings.
	ControlPlane controlplane.Config
	// PodCIDR is the range that nodes get their pods' addresses from. Default: the manager's.
	PodCIDR string
	// NodeCIDRBits is the size of a node's part of it. Default: the manager's.
	NodeCIDRBits int
	// Disable names components that this process does not run: manager, scheduler.
	Disable []string
}

// Run serves until the context ends; a clean stop returns nil.
func Run(ctx context.Context, cfg Config) error {
	for _, name := range cfg.Disable {
		if name != Manager && name != Scheduler {
			return fmt.Errorf("disabling %q: there is no such component: choose of %s, %s", name, Manager, Scheduler)
		}
	}
	garbage.Pace(ctx, garbage.Server)
	cp := cfg.ControlPlane
	var err error
	if cp.CRDs, err = config.CRDs(); err != nil {
		return err
	}
	roles, err := config.RBAC()
	if err != nil {
		return err
	}
	policies, err := config.Policies()
	if err != nil {
		return err
	}
	flows, err := config.FlowControl()
	if err != nil {
		return err
	}
	cp.Objects = slices.Concat(roles, policies, flows)
	cp.AdmissionPlugins = append(slices.Clone(cp.AdmissionPlugins), controlplane.AdmissionPlugin{Name: webhooks.PluginName, New: webhooks.NewPlugin})
	cp.APIGroups = append(slices.Clone(cp.APIGroups), subresources(cp.Agents))

	group, ctx := errgroup.WithContext(ctx)
	ready := cp.Ready
	cp.Ready = func(info controlplane.Info) {
		for name, run := range cfg.components(info) {
			if !slices.Contains(cfg.Disable, name) {
				group.Go(func() error { keepRunning(ctx, name, run); return nil })
			}
		}
		if ready != nil {
			ready(info)
		}
	}
	group.Go(func() error { return controlplane.Run(ctx, cp) })
	return group.Wait()
}

// subresources is the group of streams to nodes and of what nodes ask for. agents is the user of agents that
// are pods, if any.
func subresources(agents string) controlplane.APIGroup {
	return controlplane.APIGroup{
		LongRunning: apiserver.LongRunning(),
		New: func(ctx context.Context, deps controlplane.Deps) (*genericapiserver.APIGroupInfo, error) {
			config := apiserver.Config{
				Client: deps.Loopback, Authorizer: deps.Authorizer,
				CAFile: deps.CAFile, ClientCertFile: deps.ClientCertFile, ClientKeyFile: deps.ClientKeyFile, NodeServiceAccount: agents,
				BindTokens: true,
			}
			if deps.Shared {
				config.ReplicaUser = managerUser
				config.Replicas = func(ctx context.Context, changed func(map[string]*rest.Config)) error {
					return followServers(ctx, deps, changed)
				}
			}
			return apiserver.NewAPIGroup(ctx, config)
		},
	}
}

// managerUser is the identity by which servers that share an etcd know each other: each has a certificate of it.
const managerUser = "drayage:manager"

// followServers calls changed with the other servers that share this one's etcd.
func followServers(ctx context.Context, deps controlplane.Deps, changed func(map[string]*rest.Config)) error {
	identity, err := clientcmd.BuildConfigFromFlags("", deps.Kubeconfigs[Manager])
	if err != nil {
		return fmt.Errorf("reading the manager's kubeconfig: %w", err)
	}
	return replicas.Follow(ctx, replicas.Config{
		Client: deps.Loopback, Slice: &ddiscoveryv1.EndpointSlice{}, Namespace: metav1.NamespaceDefault, Service: "kubernetes",
		Self: func(address netip.AddrPort) bool { return address == deps.Endpoint },
		Reach: func(address netip.AddrPort) *rest.Config {
			config := rest.CopyConfig(identity)
			config.Host = replicas.Host(address)
			return config
		},
	}, changed)
}

// components are the parts beside the API server, each with its own identity.
func (c Config) components(info controlplane.Info) map[string]func(context.Context) error {
	shared := len(c.ControlPlane.EtcdServers) > 0
	manager := managerapp.DefaultConfig()
	manager.Kubeconfig, manager.LeaderElection = info.Kubeconfigs[Manager], shared
	manager.Election = managerapp.Election{LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod}
	if c.ControlPlane.ServiceCIDR != "" {
		manager.Controllers.ServiceCIDR = c.ControlPlane.ServiceCIDR
	}
	if c.PodCIDR != "" {
		manager.Controllers.PodCIDR = c.PodCIDR
	}
	manager.Controllers.NodeCIDRBits = c.NodeCIDRBits
	scheduler := schedulerapp.Config{
		Kubeconfig: info.Kubeconfigs[Scheduler], LeaderElect: shared, LeaseNamespace: "drayage-system",
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
	}
	return map[string]func(context.Context) error{
		Manager:   func(ctx context.Context) error { return managerapp.Run(ctx, manager) },
		Scheduler: func(ctx context.Context) error { return schedulerapp.Run(ctx, scheduler) },
	}
}

// keepRunning starts a component again whenever it ends, as a supervisor would its process: a lost lease of
// one is no reason to end the API server.
func keepRunning(ctx context.Context, name string, run func(context.Context) error) {
	log := klog.FromContext(ctx)
	// What controllers narrate of their start and stop is for who asks for it with -v 1; errors are not.
	ctx = klog.NewContext(ctx, log.V(1))
	for ctx.Err() == nil {
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		log.Error(err, "A component ended and starts again", "component", name, "in", restartDelay)
		select {
		case <-ctx.Done():
		case <-time.After(restartDelay):
		}
	}
}

// Describe is what a person who started a server wants to know next.
func Describe(info controlplane.Info) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The control plane is ready at %s\n\n", info.URL)
	fmt.Fprintf(&b, "  Use it:         export KUBECONFIG=%s\n", info.Kubeconfigs["admin"])
	fmt.Fprintf(&b, "                  dray kubectl get nodes\n")
	fmt.Fprintf(&b, "  Add a machine:  dray agent --join %s --token \"$(cat %s)\"\n", info.URL, info.TokenFile)
	return b.String()
}
