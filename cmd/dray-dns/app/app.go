package app

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"drayage.dev/network/detached"
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
	// SnapshotFile keeps the services last known, for a start while the API is away.
	SnapshotFile string
	// LockFile is held while the process runs (package network/detached); empty means none.
	LockFile string
}

// NewCommand returns the dray-dns command.
func NewCommand() *cobra.Command {
	config := Config{}
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
			ctx, stop := signal.NotifyContext(command.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return Run(ctx, config)
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
	flags.StringVar(&config.ResolvConf, "resolv-conf", "/etc/resolv.conf", "file with the node's own name servers, read again when it changes")
	flags.StringArrayVar(&config.StubDomains, "stub-domain", nil,
		"domain with name servers of its own, as domain=address[:port][,address...]; may be given again")
	flags.StringVar(&config.SnapshotFile, "snapshot-file", "", "file that keeps the services last known (default: none)")
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
	return dns.Run(ctx, cfg)
}

func (c Config) dns() (dns.Config, error) {
	cfg := dns.Config{
		RESTConfig: c.RESTConfig, Port: c.Port, Domain: c.Domain, Upstreams: c.Upstreams, ResolvConf: c.ResolvConf,
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
