// Package up is `dray up`: a control plane and a node in one process, on one machine. It joins the two as
// separate machines would be: the agent has a node's certificate and rights, no others.
package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	agentapp "drayage.dev/cmd/dray-agent/app"
	"drayage.dev/cmd/dray/agentjoin"
	"drayage.dev/cmd/dray/logging"
	"drayage.dev/cmd/dray/server"
	"drayage.dev/controlplane"
)

// Config is what `dray up` is told. What server and agent both need is the server's.
type Config struct {
	Server server.Config
	Agent  agentapp.Config
}

// NewCommand returns `dray up`. It stops in good order on SIGTERM and SIGINT.
func NewCommand() *cobra.Command {
	cfg := Config{Agent: agentapp.DefaultConfig()}
	var logs logging.Options
	command := &cobra.Command{
		Use:   "up",
		Short: "Run a cluster on this machine",
		Long: `Runs a cluster on this machine: control plane and node in one process. More machines join it with
"dray agent".

It needs root, containerd and runc. All state is in --data-dir: a later "dray up" from the same directory goes on
where this one was. When it stops, pods go on, as they do when a machine's agent is replaced; with --take-down
they end, too.`,
		Example: `  # As root
  dray up

  # In a directory of one's own, leaving nothing running at the end
  dray up --data-dir ./state --take-down`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			cfg.Server.ControlPlane.Ready = func(info controlplane.Info) {
				fmt.Fprint(command.OutOrStdout(), server.Describe(info))
			}
			if !command.Flags().Changed("cluster-dns") {
				cfg.Agent.ClusterDNS = ""
			}
			ctx, err := logging.Setup(ctx, logs)
			if err != nil {
				return err
			}
			cfg.Agent.DNSArguments = logs.Arguments()
			return Run(ctx, cfg)
		},
	}
	flags := command.Flags()
	cfg.Server.AddFlags(flags)
	// --data-dir, --pod-cidr and --service-cidr are the server's.
	agentFlags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	cfg.Agent.AddFlags(agentFlags)
	agentFlags.VisitAll(func(flag *pflag.Flag) {
		if flags.Lookup(flag.Name) == nil {
			flags.AddFlag(flag)
		}
	})
	flags.BoolVar(&cfg.Agent.TakeDown, "take-down", false, "end all pods and the container runtime when stopping")
	logs.AddFlags(flags)
	return command
}

// Run serves and runs pods until the context ends; a clean stop returns nil. The agent stops first, while the
// server still takes what it has to report.
func Run(ctx context.Context, cfg Config) error {
	agent, err := cfg.agent()
	if err != nil {
		return err
	}
	if err := agent.Check(); err != nil {
		return err
	}
	serverCtx, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServer()
	// What of the two ends first ends the other.
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	ready := make(chan controlplane.Info, 1)
	announce := cfg.Server.ControlPlane.Ready
	cfg.Server.ControlPlane.Ready = func(info controlplane.Info) {
		ready <- info
		if announce != nil {
			announce(info)
		}
	}
	served := make(chan error, 1)
	go func() {
		defer stop()
		served <- server.Run(serverCtx, cfg.Server)
	}()
	var agentErr error
	select {
	case info := <-ready:
		agentErr = runAgent(ctx, agentjoin.Config{Agent: agent, Server: info.Admin.Host}, info)
	case <-ctx.Done():
	}
	stopServer()
	return errors.Join(agentErr, <-served)
}

func runAgent(ctx context.Context, cfg agentjoin.Config, info controlplane.Info) error {
	token, err := os.ReadFile(info.TokenFile)
	if err != nil {
		// An administrator may remove it; a machine that has joined before needs none.
		klog.FromContext(ctx).Info("There is no join token of the first start", "file", info.TokenFile)
	}
	cfg.Token = strings.TrimSpace(string(token))
	if cfg.Agent.NodeIP == "" {
		if advertised, err := hostOf(info.URL); err == nil && !advertised.IsLoopback() {
			cfg.Agent.NodeIP = advertised.String()
		}
	}
	return agentjoin.Run(ctx, cfg)
}

// dnsIndex is the place of the DNS service's address in the service range.
const dnsIndex = 10

// agent is the agent's configuration, with what it shares with the server taken from there.
func (c Config) agent() (agentapp.Config, error) {
	agent, defaults, cp := c.Agent, agentapp.DefaultConfig(), c.Server.ControlPlane
	agent.DataDir, agent.PodCIDR, agent.ServiceCIDR = cp.DataDir, c.Server.PodCIDR, cp.ServiceCIDR
	for _, field := range []struct {
		value    *string
		fallback string
	}{
		{&agent.DataDir, controlplane.DefaultDataDir},
		{&agent.PodCIDR, defaults.PodCIDR},
		{&agent.ServiceCIDR, controlplane.DefaultServiceCIDR},
	} {
		if *field.value == "" {
			*field.value = field.fallback
		}
	}
	if agent.ClusterDNS == "" {
		services, err := netip.ParsePrefix(agent.ServiceCIDR)
		if err != nil {
			return agent, fmt.Errorf("parsing the service range: %w", err)
		}
		address := services.Masked().Addr()
		for range dnsIndex {
			address = address.Next()
		}
		agent.ClusterDNS = address.String()
	}
	return agent, nil
}

func hostOf(server string) (netip.Addr, error) {
	host, _, err := net.SplitHostPort(strings.TrimPrefix(server, "https://"))
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(host)
}
