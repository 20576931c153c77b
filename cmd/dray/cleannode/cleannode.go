// Package cleannode is `dray clean-node`: it removes what a killed agent left on a machine. The work is the
// agent's own (cmd/dray-agent/app.Clean); this package only asks for it.
package cleannode

import (
	"fmt"

	"github.com/spf13/cobra"

	agentapp "drayage.dev/cmd/dray-agent/app"
)

// NewCommand returns `dray clean-node`.
func NewCommand() *cobra.Command {
	config := agentapp.DefaultConfig()
	command := &cobra.Command{
		Use:   "clean-node",
		Short: "Remove what a killed agent left on this machine",
		Long: `Removes what Drayage's agent made on this machine: pods' processes, mounts, network namespaces, links, routes
and tables, cgroups, and the container runtime's state. Pods are killed, not asked to end: to end them gracefully,
stop the agent with --take-down, or drain the node first.

Only what Drayage made is touched, and its data directory stays. It may be run again at any time; stop the agent
before.`,
		Example: `  dray clean-node
  dray clean-node --data-dir ./state`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := agentapp.Clean(command.Context(), config); err != nil {
				return fmt.Errorf("cleaning this node: %w", err)
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&config.DataDir, "data-dir", config.DataDir, "the agent's data directory")
	flags.StringVar(&config.RunDir, "run-dir", config.RunDir, "the agent's directory of sockets and runtime state")
	flags.StringVar(&config.CgroupRoot, "cgroup-root", config.CgroupRoot, "the cgroup of everything that the agent runs")
	return command
}
