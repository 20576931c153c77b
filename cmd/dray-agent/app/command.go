package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"drayage.dev/controlplane/join"
	"drayage.dev/internal/diagnostics"
)

// NewCommand returns the command dray-agent. It stops in good order on SIGTERM and SIGINT; pods go on.
func NewCommand() *cobra.Command {
	config := DefaultConfig()
	request := false
	var logs diagnostics.Logging
	cmd := &cobra.Command{
		Use:   "dray-agent",
		Short: "Run the pods of this machine",
		Long: `dray-agent registers this machine as a Node and runs the pods that are bound to it, in a container
runtime of its own. When it stops, pods and runtime go on, and the next agent finds them.

It needs root, containerd 1.6 or newer, and runc. The identity in the kubeconfig has to be the node's:
user drayage:node:<name> in group drayage:nodes. "dray agent --join" gets one by itself.`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := logs.Apply(); err != nil {
				return err
			}
			config.DNSArguments = logs.Arguments()
			ctx := klog.NewContext(ctrl.SetupSignalHandler(), klog.Background())
			if request {
				if err := requestServing(ctx, &config); err != nil {
					return err
				}
			}
			return Run(ctx, config)
		},
	}
	flags := cmd.Flags()
	config.AddFlags(flags)
	logs.AddFlags(flags)
	flags.StringVar(&config.Kubeconfig, "kubeconfig", config.Kubeconfig, "path of the node's kubeconfig; inside a cluster it may be empty")
	flags.StringVar(&config.TLSCertFile, "tls-cert-file", config.TLSCertFile, "serving certificate of this node")
	flags.StringVar(&config.TLSKeyFile, "tls-private-key-file", config.TLSKeyFile, "key of the serving certificate")
	flags.BoolVar(&request, "request-serving-certificate", request, "ask the cluster for the serving certificate of this node, which --node-name and --node-ip name, and renew it")
	flags.StringVar(&config.ClientCAFile, "client-ca-file", config.ClientCAFile, "authority of the API server's client certificate")
	flags.BoolVar(&config.TakeDown, "take-down", config.TakeDown, "end all pods and the runtime when stopping")
	return cmd
}

// requestServing has the certificate of the streaming server asked for and renewed.
func requestServing(ctx context.Context, config *Config) error {
	if config.NodeName == "" || config.NodeIP == "" {
		return errors.New("a serving certificate needs --node-name and --node-ip")
	}
	var ips []net.IP
	for text := range strings.SplitSeq(config.NodeIP, ",") {
		ip := net.ParseIP(text)
		if ip == nil {
			return fmt.Errorf("--node-ip %q is no address", text)
		}
		ips = append(ips, ip)
	}
	certificates, err := join.KeepServing(ctx, config.Kubeconfig, config.NodeName, config.agentDir(), ips, []string{config.NodeName})
	if err != nil {
		return err
	}
	config.ServingCertificate = certificates.Serving
	return nil
}
