package drain

import (
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/drain"
	"k8s.io/kubectl/pkg/cmd/taint"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"drayage.dev/cmd/dray/client"
)

// NewCordon returns `dray cordon`.
func NewCordon(streams genericiooptions.IOStreams) *cobra.Command {
	return newCommand(streams, drain.NewCmdCordon, "Mark a node so that no new pods are placed on it",
		`Marks a node so that the scheduler places no new pods on it. What runs there stays.`, `  dray cordon node-1`)
}

// NewUncordon returns `dray uncordon`.
func NewUncordon(streams genericiooptions.IOStreams) *cobra.Command {
	return newCommand(streams, drain.NewCmdUncordon, "Let pods be placed on a node again",
		`Takes back what cordon and drain did: the scheduler places pods on the node again.`, `  dray uncordon node-1`)
}

// NewDrain returns `dray drain`.
func NewDrain(streams genericiooptions.IOStreams) *cobra.Command {
	return newCommand(streams, drain.NewCmdDrain, "Move the pods of a node elsewhere, within their disruption budgets",
		`Cordons a node and evicts its pods, as kubectl drain does. It ends when all of them are gone.

An eviction that a disruption budget does not allow is tried again every five seconds until --timeout is
over; the message says which budget it waits for. A pod of a Deployment that may surge (maxSurge above 0)
goes once its replacement is ready, which is tried the same way.

Pods that nothing controls are refused without --force, pods with emptyDir volumes without
--delete-emptydir-data: what is in them goes with them.`, `  # For maintenance, and back into service
  dray drain node-1 --delete-emptydir-data
  dray uncordon node-1

  # What would be evicted
  dray drain node-1 --dry-run=client

  # Give up after ten minutes; leave batch jobs alone
  dray drain node-1 --timeout=10m --pod-selector='tier!=batch'`)
}

// NewTaint returns `dray taint`.
func NewTaint(streams genericiooptions.IOStreams) *cobra.Command {
	return newCommand(streams, taint.NewCmdTaint, "Change the taints of nodes", `Adds, changes and removes taints of nodes, as kubectl taint does. Pods that do not tolerate a taint are
not placed on the node (NoSchedule), only where there is no other place (PreferNoSchedule), or leave it
(NoExecute). This asks no disruption budget: drain does.`, `  # Keep pods off that do not tolerate it
  dray taint nodes node-1 dedicated=gpu:NoSchedule

  # Take the taint away again
  dray taint nodes node-1 dedicated-

  # All nodes with a label
  dray taint nodes -l rack=7 maintenance=soon:PreferNoSchedule`)
}

// newCommand makes one of kubectl's commands dray's.
func newCommand(streams genericiooptions.IOStreams, upstream func(cmdutil.Factory, genericiooptions.IOStreams) *cobra.Command, short, long, example string) *cobra.Command {
	flags := client.NewFlags()
	command := upstream(cmdutil.NewFactory(&getter{flags}), streams)
	// kubectl's --timeout of drain is the drain's, and comes first.
	own := command.Flags().Lookup("timeout")
	command.Short, command.Long, command.Example = short, long, example
	command.SilenceUsage = true
	if own != nil {
		flags.Timeout = nil
	}
	flags.AddFlags(command.Flags())
	run := command.Run
	command.Run = func(command *cobra.Command, args []string) {
		for i, arg := range args {
			// A name alone is a node's, whatever it reads like; only taint has a type in front.
			if strings.Contains(arg, "/") || i == 0 && command.Name() == "taint" {
				args[i] = upstreamArgument(arg)
			}
		}
		run(command, args)
	}
	return command
}

// upstreamArgument names nodes as the static mapping does; Drayage's group may be given.
func upstreamArgument(arg string) string {
	kind, name, slash := strings.Cut(arg, "/")
	kind = strings.TrimSuffix(strings.TrimSuffix(kind, ".v1.core.drayage.dev"), ".core.drayage.dev")
	switch kind {
	case "no", "dno", "node", "nodes":
		kind = "nodes"
	default:
		return arg
	}
	if slash {
		return kind + "/" + name
	}
	return kind
}
