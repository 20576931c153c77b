package server

import (
	"fmt"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"drayage.dev/cmd/dray/logging"
	"drayage.dev/controlplane"
)

// NewCommand returns `dray server`. It stops in good order on SIGTERM and SIGINT.
func NewCommand() *cobra.Command {
	var cfg Config
	var logs logging.Options
	command := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane",
		Long: `Runs the control plane of a cluster in one process: API server and its storage, controllers and scheduler.
Machines join with "dray agent"; "dray up" runs both on one machine.

State is kept in --data-dir: certificates, which are made at the first start and renewed, the storage, and in
server/kubeconfig/admin.conf what the administrator needs. A server that is started from the same directory
goes on where it was, also after a crash.`,
		Example: `  # One machine as the control plane
  dray server

  # On an address of its own, reachable from outside by another
  dray server --bind-address 10.0.0.5 --advertise-address 192.0.2.5

  # Several servers on an etcd outside. They share server/pki: copy ca.crt, ca.key and sa.key from the first.
  dray server --etcd-servers https://10.0.0.7:2379,https://10.0.0.8:2379 \
    --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key

  # Controllers and scheduler as processes of their own
  dray server --disable manager,scheduler`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			cfg.ControlPlane.Ready = func(info controlplane.Info) { fmt.Fprint(command.OutOrStdout(), Describe(info)) }
			ctx, err := logging.Setup(ctx, logs)
			if err != nil {
				return err
			}
			return Run(ctx, cfg)
		},
	}
	cfg.AddFlags(command.Flags())
	logs.AddFlags(command.Flags())
	return command
}

// AddFlags binds the flags of a server to the configuration.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	cp := &c.ControlPlane
	flags.StringVar(&cp.DataDir, "data-dir", controlplane.DefaultDataDir, "directory that holds all state")
	flags.StringVar(&cp.BindAddress, "bind-address", "0.0.0.0", "address to listen on")
	flags.StringVar(&cp.AdvertiseAddress, "advertise-address", "", "address at which machines and pods reach the API server (default: the bind address, or the one of the interface with the default route)")
	flags.IntVar(&cp.Port, "port", controlplane.DefaultPort, "port of the API server")
	flags.StringSliceVar(&cp.ServingNames, "tls-san", nil, "further names and addresses to put into the API server's certificate, such as a load balancer's")
	flags.StringVar(&cp.ServiceCIDR, "service-cidr", controlplane.DefaultServiceCIDR, "range of the addresses of services")
	flags.StringVar(&c.PodCIDR, "pod-cidr", "10.244.0.0/16", "range that nodes get their pods' addresses from")
	flags.IntVar(&c.NodeCIDRBits, "node-cidr-mask-size", 0, "size of a node's part of it; 0: 24, which is 254 pods, for IPv6 64. Nodes keep the part that they have")
	flags.StringSliceVar(&cp.EtcdServers, "etcd-servers", nil, "URLs of an etcd outside, to share among several servers (default: etcd runs in this process)")
	flags.StringVar(&cp.EtcdTLS.CAFile, "etcd-cafile", "", "authority of the etcd outside")
	flags.StringVar(&cp.EtcdTLS.CertFile, "etcd-certfile", "", "client certificate for the etcd outside")
	flags.StringVar(&cp.EtcdTLS.KeyFile, "etcd-keyfile", "", "key of the client certificate for the etcd outside")
	flags.StringSliceVar(&c.Disable, "disable", nil, "components to leave out: "+Manager+", "+Scheduler)
}
