package app

import (
	"github.com/spf13/cobra"
	ctrl "sigs.k8s.io/controller-runtime"

	"drayage.dev/internal/diagnostics"
)

// NewCommand returns the command dray-manager. It stops in good order on SIGTERM and SIGINT.
func NewCommand() *cobra.Command {
	cfg := DefaultConfig()
	var logs diagnostics.Logging
	command := &cobra.Command{
		Use:   "dray-manager",
		Short: "Run Drayage's controllers",
		Long: `dray-manager runs the controllers of Drayage: they turn Deployments into ReplicaSets and pods, and
keep what the API shows in step with what should be. It needs an API server that serves Drayage's custom
resources, and nothing else; any number of managers may run with --leader-elect, one of them works.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := logs.Apply(); err != nil {
				return err
			}
			return Run(ctrl.SetupSignalHandler(), cfg)
		},
	}
	flags := command.Flags()
	command.PersistentFlags().StringVar(&cfg.Kubeconfig, "kubeconfig", cfg.Kubeconfig,
		"kubeconfig of the API server; empty: the service account of the pod that this runs in")
	flags.BoolVar(&cfg.LeaderElection, "leader-elect", cfg.LeaderElection,
		"work only while no other manager does")
	flags.StringVar(&cfg.LeaderElectionNamespace, "leader-election-namespace", cfg.LeaderElectionNamespace,
		"namespace of the lease of the election")
	flags.DurationVar(&cfg.Election.LeaseDuration, "leader-elect-lease-duration", cfg.Election.LeaseDuration,
		"how long the others wait for a leader that does not renew its lease")
	flags.DurationVar(&cfg.Election.RenewDeadline, "leader-elect-renew-deadline", cfg.Election.RenewDeadline,
		"how long a leader tries to renew its lease before it ends")
	flags.DurationVar(&cfg.Election.RetryPeriod, "leader-elect-retry-period", cfg.Election.RetryPeriod,
		"time between two tries to get or renew the lease")
	flags.StringVar(&cfg.MetricsBindAddress, "metrics-bind-address", cfg.MetricsBindAddress,
		`address to serve metrics at, such as ":8080"; "0": none`)
	flags.StringVar(&cfg.HealthBindAddress, "health-bind-address", cfg.HealthBindAddress,
		`address to serve /healthz and /readyz at, such as ":8081"; "0": none`)
	flags.StringVar(&cfg.Controllers.ServiceCIDR, "service-cidr", cfg.Controllers.ServiceCIDR,
		"range of the services' cluster addresses")
	flags.StringVar(&cfg.Controllers.PodCIDR, "pod-cidr", cfg.Controllers.PodCIDR,
		"range that nodes get their pod ranges from")
	flags.IntVar(&cfg.Controllers.NodeCIDRBits, "node-cidr-mask-size", cfg.Controllers.NodeCIDRBits,
		"size of a node's pod range; 0: 24, which is 254 pods, for IPv6 64. Nodes keep the range that they have")
	flags.DurationVar(&cfg.Controllers.NodeGrace, "node-monitor-grace-period", cfg.Controllers.NodeGrace,
		"how long a node may be silent before it counts as lost; agents renew their leases every 10 seconds")
	flags.DurationVar(&cfg.Controllers.NodeQuarantine, "node-quarantine", cfg.Controllers.NodeQuarantine,
		"how long a node must be missing before the pods that are bound to it are ended")
	cfg.Diagnostics.AddSecureFlags(flags)
	logs.AddFlags(flags)
	cluster := &cfg.Cluster
	flags.IntVar(&cluster.WebhookPort, "webhook-port", cluster.WebhookPort,
		"port to serve the admission webhooks at, for clusters with a control plane of their own; 0: none")
	flags.IntVar(&cluster.APIPort, "api-port", cluster.APIPort,
		"port to serve the aggregated API subresources.drayage.dev at, likewise; 0: none")
	flags.StringVar(&cluster.BindAddress, "bind-address", cluster.BindAddress,
		"address that both are served at; all of them when empty")
	flags.StringVar(&cluster.CertDir, "cert-dir", cluster.CertDir,
		"directory of the certificates that this process makes for them; a temporary one when empty")
	flags.StringVar(&cluster.Namespace, "system-namespace", cluster.Namespace,
		"namespace of Drayage itself: of its certificate authority and of the services that lead here")
	command.AddCommand(newUnregisterCommand(&cfg), newReleasePodsCommand(&cfg), newCleanNodesCommand(&cfg))
	return command
}
