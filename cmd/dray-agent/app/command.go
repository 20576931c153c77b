package app

import (
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

// NewCommand returns the command dray-agent. It stops in good order on SIGTERM and SIGINT; pods go on.
func NewCommand() *cobra.Command {
	config := DefaultConfig()
	cmd := &cobra.Command{
		Use:   "dray-agent",
		Short: "Run the pods of this machine",
		Long: `dray-agent registers this machine as a Node and runs the pods that are bound to it, in a container
runtime of its own. When it stops, pods and runtime go on, and the next agent finds them.

It needs root, containerd 1.6 or newer, and runc. The identity in the kubeconfig has to be the node's:
user drayage:node:<name> in group drayage:nodes. "dray agent --join" gets one by itself.`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := klog.NewContext(ctrl.SetupSignalHandler(), klog.Background())
			return Run(ctx, config)
		},
	}
	flags := cmd.Flags()
	config.AddFlags(flags)
	flags.StringVar(&config.Kubeconfig, "kubeconfig", config.Kubeconfig, "path of the node's kubeconfig; inside a cluster it may be empty")
	flags.StringVar(&config.TLSCertFile, "tls-cert-file", config.TLSCertFile, "serving certificate of this node")
	flags.StringVar(&config.TLSKeyFile, "tls-private-key-file", config.TLSKeyFile, "key of the serving certificate")
	flags.StringVar(&config.ClientCAFile, "client-ca-file", config.ClientCAFile, "authority of the API server's client certificate")
	flags.BoolVar(&config.TakeDown, "take-down", config.TakeDown, "end all pods and the runtime when stopping")
	return cmd
}
