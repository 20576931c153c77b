package app

import (
	"github.com/spf13/cobra"
	ctrl "sigs.k8s.io/controller-runtime"
)

// NewCommand returns the command dray-manager. It stops in good order on SIGTERM and SIGINT.
func NewCommand() *cobra.Command {
	cfg := DefaultConfig()
	command := &cobra.Command{
		Use:   "dray-manager",
		Short: "Run Drayage's controllers",
		Long: `dray-manager runs the controllers of Drayage: they turn Deployments into ReplicaSets and pods, and
keep what the API shows in step with what should be. It needs an API server that serves Drayage's custom
resources, and nothing else; any number of managers may run with --leader-elect, one of them works.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			return Run(ctrl.SetupSignalHandler(), cfg)
		},
	}
	flags := command.Flags()
	flags.StringVar(&cfg.Kubeconfig, "kubeconfig", cfg.Kubeconfig,
		"kubeconfig of the API server; empty: the service account of the pod that this runs in")
	flags.BoolVar(&cfg.LeaderElection, "leader-elect", cfg.LeaderElection,
		"work only while no other manager does")
	flags.StringVar(&cfg.LeaderElectionNamespace, "leader-election-namespace", cfg.LeaderElectionNamespace,
		"namespace of the lease of the election")
	flags.StringVar(&cfg.MetricsBindAddress, "metrics-bind-address", cfg.MetricsBindAddress,
		`address to serve metrics at, such as ":8080"; "0": none`)
	flags.StringVar(&cfg.HealthBindAddress, "health-bind-address", cfg.HealthBindAddress,
		`address to serve /healthz and /readyz at, such as ":8081"; "0": none`)
	flags.StringVar(&cfg.Controllers.ServiceCIDR, "service-cidr", cfg.Controllers.ServiceCIDR,
		"range of the services' cluster addresses")
	flags.StringVar(&cfg.Controllers.PodCIDR, "pod-cidr", cfg.Controllers.PodCIDR,
		"range that nodes get their pod ranges from")
	flags.DurationVar(&cfg.Controllers.NodeGrace, "node-monitor-grace-period", cfg.Controllers.NodeGrace,
		"how long a node may be silent before it counts as lost; agents renew their leases every 10 seconds")
	flags.DurationVar(&cfg.Controllers.NodeQuarantine, "node-quarantine", cfg.Controllers.NodeQuarantine,
		"how long a node must be missing before the pods that are bound to it are ended")
	return command
}
