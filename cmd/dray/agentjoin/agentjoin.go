// Package agentjoin is `dray agent`: it lets this machine join a cluster, keeps the node's certificates
// fresh, and runs the agent with them. The agent itself knows nothing of joining.
package agentjoin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/tools/clientcmd"

	agentapp "drayage.dev/cmd/dray-agent/app"
	"drayage.dev/cmd/dray/logging"
	"drayage.dev/controlplane"
	"drayage.dev/controlplane/join"
)

// Config is what an agent that joins is told.
type Config struct {
	// Agent configures the agent; Run adds identity, addresses and certificates.
	Agent agentapp.Config
	// Server is the URL of the API server. Empty: the one that this machine joined before.
	Server string
	// Token lets the machine in. It is needed once.
	Token string
}

// NewCommand returns `dray agent`. It stops in good order on SIGTERM and SIGINT; pods go on.
func NewCommand() *cobra.Command {
	cfg := Config{Agent: agentapp.DefaultConfig()}
	var logs logging.Options
	command := &cobra.Command{
		Use:   "agent",
		Short: "Make this machine a node of a cluster",
		Long: `Makes this machine a node: joins the cluster at --join with --token, then runs the pods that are placed here.

The token is needed once. It carries a pin by which the machine knows the right server; what it gives is a
certificate for this node and nothing else, which renews itself. From then on the agent starts with or without
the server, and pods go on while neither runs.`,
		Example: `  # On the control plane
  dray token create

  # Here, as root
  dray agent --join https://10.0.0.5:6443 --token abcdef.0123456789abcdef.<pin>

  # Ever after
  dray agent`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			ctx, err := logging.Setup(ctx, logs)
			if err != nil {
				return err
			}
			cfg.Agent.DNSArguments = logs.Arguments()
			return Run(ctx, cfg)
		},
	}
	flags := command.Flags()
	flags.StringVar(&cfg.Server, "join", "", "URL of the API server (default: the one that this machine joined before)")
	flags.StringVar(&cfg.Token, "token", "", "join token, as `dray token create` prints it; needed once")
	flags.BoolVar(&cfg.Agent.TakeDown, "take-down", false, "end all pods and the container runtime when stopping")
	cfg.Agent.AddFlags(flags)
	logs.AddFlags(flags)
	return command
}

// Run joins if need be and runs the agent until the context ends; a clean stop returns nil.
func Run(ctx context.Context, cfg Config) error {
	agent := &cfg.Agent
	if err := agent.Check(); err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Join(agent.DataDir, "agent"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("preparing the data directory %s: %w", agent.DataDir, err)
	}
	if err := controlplane.CheckVersion(agent.DataDir); err != nil {
		return err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding this machine's name: %w: name the node with --node-name", err)
	}
	hostname = strings.ToLower(hostname)
	if agent.NodeName == "" {
		agent.NodeName = hostname
	}
	if cfg.Server == "" {
		if cfg.Server, err = joinedServer(filepath.Join(dir, "kubeconfig")); err != nil {
			return err
		}
	}
	credentials, err := join.Ensure(ctx, join.Config{Server: cfg.Server, Token: cfg.Token, NodeName: agent.NodeName, Dir: dir})
	if err != nil {
		return err
	}
	if agent.NodeIP == "" {
		if agent.NodeIP, err = nodeAddress(cfg.Server); err != nil {
			return err
		}
	}
	var ips []net.IP
	for text := range strings.SplitSeq(agent.NodeIP, ",") {
		ip := net.ParseIP(text)
		if ip == nil {
			return fmt.Errorf("--node-ip %q is no address", text)
		}
		ips = append(ips, ip)
	}
	certificates, err := credentials.Keep(ctx, ips, []string{agent.NodeName})
	if err != nil {
		return err
	}
	agent.Kubeconfig, agent.ClientCAFile = credentials.Kubeconfig, credentials.CAFile
	agent.ServingCertificate = certificates.Serving
	return agentapp.Run(ctx, *agent)
}

// joinedServer returns the server of an earlier join.
func joinedServer(kubeconfig string) (string, error) {
	if _, err := os.Stat(kubeconfig); errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("this machine has not joined a cluster: pass --join and --token; `dray token create` on the server prints a token")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	return config.Host, nil
}

// nodeAddress returns the address from which this machine reaches a server, or, where that is on this
// machine, that of the interface with the default route. The certificate needs it before the agent runs.
func nodeAddress(server string) (string, error) {
	if address, err := url.Parse(server); err == nil {
		// A UDP socket sends nothing when it connects, and so tells the route without the server.
		if connection, err := net.Dial("udp", net.JoinHostPort(address.Hostname(), "443")); err == nil {
			defer connection.Close()
			if local, ok := connection.LocalAddr().(*net.UDPAddr); ok && !local.IP.IsLoopback() {
				return local.IP.String(), nil
			}
		}
	}
	ip, err := utilnet.ChooseHostInterface()
	if err != nil {
		return "", fmt.Errorf("finding this node's address: %w: name it with --node-ip", err)
	}
	return ip.String(), nil
}
