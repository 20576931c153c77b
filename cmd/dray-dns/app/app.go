package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"drayage.dev/internal/detached"
	"drayage.dev/internal/diagnostics"
	"drayage.dev/network/dns"
)

// Config is everything that a DNS process can be told.
type Config struct {
	// Kubeconfig is the file that reaches the API server: the node's own.
	Kubeconfig string
	// RESTConfig, when set, takes the place of Kubeconfig.
	RESTConfig *rest.Config
	// BindAddress is the cluster's DNS address; it becomes the node's own, unless it is already.
	BindAddress string
	// Port is the UDP and TCP port.
	Port uint16
	// Domain is the cluster's.
	Domain string
	// Ranges are the cluster's pod and service ranges, in CIDR notation.
	Ranges []string
	// Upstreams are the name servers for all other names; without any, those of ResolvConf.
	Upstreams  []string
	ResolvConf string
	// StubDomains are domains with name servers of their own, each as domain=address[,address...].
	StubDomains []string
	// Shared says that those name servers have names in Domain, too.
	Shared bool
	// SnapshotFile keeps the services last known, for a start while the API is away.
	SnapshotFile string
	// ListenAddress serves /healthz, /livez, /readyz and /metrics over plain HTTP; empty: not at all.
	ListenAddress string
	// Diagnostics serves the same, and profiles, over TLS where its SecureAddress is set.
	Diagnostics diagnostics.Config
	// LockFile is held while the process runs (package internal/detached); empty means none.
	LockFile string
}

// NewCommand returns the dray-dns command.
func NewCommand() *cobra.Command {
	config := Config{}
	var logs diagnostics.Logging
	command := &cobra.Command{
		Use:   "dray-dns",
		Short: "Answer the names of Drayage's services on this node",
		Long: `Answers the names of Drayage's services (A, AAAA, SRV, PTR and CNAME records below the cluster's
domain) over UDP and TCP, and asks the node's own name servers for all others.

It listens on the cluster's DNS address, which it makes an address of this node by a local route. It
answers from what it heard last while the API server is away.`,
		Example: `  dray-dns --kubeconfig /var/lib/drayage/agent/kubeconfig --bind-address 10.96.0.10 \
    --ranges 10.244.0.0/16,10.96.0.0/16 --snapshot-file /var/lib/drayage/agent/dns.json`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			return logs.Run(command.Context(), func(ctx context.Context) error { return Run(ctx, config) })
		},
	}
	flags := command.Flags()
	flags.StringVar(&config.Kubeconfig, "kubeconfig", "", "kubeconfig file of the node (required)")
	flags.StringVar(&config.BindAddress, "bind-address", "10.96.0.10", "the cluster's DNS address")
	flags.Uint16Var(&config.Port, "port", 53, "UDP and TCP port")
	flags.StringVar(&config.Domain, "domain", "cluster.local", "the cluster's domain")
	flags.StringSliceVar(&config.Ranges, "ranges", []string{"10.244.0.0/16", "10.96.0.0/16"},
		"the cluster's pod and service ranges; reverse names in them are asked of nobody else")
	flags.StringSliceVar(&config.Upstreams, "upstreams", nil, "name servers for all other names (default: those of --resolv-conf)")
	flags.BoolVar(&config.Shared, "shared-domain", false, "ask those name servers for names below --domain, too, that Drayage does not have")
	flags.StringVar(&config.ResolvConf, "resolv-conf", "/etc/resolv.conf", "file with the node's own name servers, read again when it changes")
	flags.StringArrayVar(&config.StubDomains, "stub-domain", nil,
		"domain with name servers of its own, as domain=address[:port][,address...]; may be given again")
	flags.StringVar(&config.SnapshotFile, "snapshot-file", "", "file that keeps the services last known (default: none)")
	flags.StringVar(&config.ListenAddress, "listen-address", "127.0.0.1:10353", "address to serve health and metrics at over plain HTTP; none when empty")
	config.Diagnostics.AddSecureFlags(flags)
	flags.StringVar(&config.Diagnostics.ClientCAFile, "client-ca-file", "", "authority of the client certificates that are known there beside tokens")
	logs.AddFlags(flags)
	flags.StringVar(&config.LockFile, "lock-file", "", "file that is held while the process runs, so that there is one only (default: none)")
	return command
}

// Run answers questions until ctx ends; then it returns nil.
func Run(ctx context.Context, config Config) error {
	cfg, err := config.dns()
	if err != nil {
		return err
	}
	if config.LockFile != "" {
		release, err := detached.Lock(config.LockFile)
		if err != nil {
			return err
		}
		defer release()
	}
	var open atomic.Bool
	cfg.Ready = func() { open.Store(true) }
	show := config.Diagnostics
	show.HealthAddress, show.MetricsAddress, show.RESTConfig, show.Log = config.ListenAddress, config.ListenAddress, cfg.RESTConfig, cfg.Log
	show.Ready = func(context.Context) error {
		if !open.Load() {
			return errors.New("the sockets are not open yet")
		}
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return diagnostics.Run(ctx, show) })
	group.Go(func() error {
		if err := dns.Run(ctx, cfg); err != nil {
			return err
		}
		return errEnded
	})
	if err := group.Wait(); !errors.Is(err, errEnded) {
		return err
	}
	return nil
}

// errEnded ends what runs beside a server that has ended in good order.
var errEnded = errors.New("the DNS server has ended")

func (c Config) dns() (dns.Config, error) {
	cfg := dns.Config{
		RESTConfig: c.RESTConfig, Port: c.Port, Domain: c.Domain, Upstreams: c.Upstreams, Shared: c.Shared, ResolvConf: c.ResolvConf,
		SnapshotFile: c.SnapshotFile, Log: klog.Background().WithName("dray-dns"),
	}
	var err error
	if cfg.Address, err = netip.ParseAddr(c.BindAddress); err != nil {
		return cfg, fmt.Errorf("reading --bind-address: %w", err)
	}
	for _, text := range c.Ranges {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return cfg, fmt.Errorf("reading --ranges: %w", err)
		}
		cfg.Ranges = append(cfg.Ranges, prefix)
	}
	for _, text := range c.StubDomains {
		stub, err := dns.ParseStub(text)
		if err != nil {
			return cfg, fmt.Errorf("reading --stub-domain: %w", err)
		}
		cfg.Stubs = append(cfg.Stubs, stub)
	}
	if cfg.RESTConfig != nil {
		return cfg, nil
	}
	if c.Kubeconfig == "" {
		return cfg, fmt.Errorf("no API server is configured: name the node's kubeconfig file with --kubeconfig")
	}
	if cfg.RESTConfig, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return cfg, fmt.Errorf("reading the kubeconfig %s: %w", c.Kubeconfig, err)
	}
	cfg.RESTConfig = rest.AddUserAgent(cfg.RESTConfig, "dray-dns")
	return cfg, nil
}
