// Command dray is Drayage on one machine and its command line: `dray up`, `dray server` and `dray agent` run
// the product, the other commands use it. Called by the name of another binary of Drayage (a link named
// dray-dns, say) it is that binary, so that one file can carry all of them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	agentapp "drayage.dev/cmd/dray-agent/app"
	managerapp "drayage.dev/cmd/dray-manager/app"
	schedulerapp "drayage.dev/cmd/dray-scheduler/app"
	"drayage.dev/cmd/dray/agentjoin"
	"drayage.dev/cmd/dray/cleannode"
	"drayage.dev/cmd/dray/convert"
	"drayage.dev/cmd/dray/delete"
	"drayage.dev/cmd/dray/drain"
	"drayage.dev/cmd/dray/explain"
	"drayage.dev/cmd/dray/kubectl"
	"drayage.dev/cmd/dray/net"
	"drayage.dev/cmd/dray/rollout"
	"drayage.dev/cmd/dray/server"
	"drayage.dev/cmd/dray/streams"
	"drayage.dev/cmd/dray/token"
	"drayage.dev/cmd/dray/up"
	"drayage.dev/internal/version"
)

func main() {
	command := commandFor(filepath.Base(os.Args[0]))
	if err := command.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		code := 1
		var exit interface{ ExitStatus() int }
		if errors.As(err, &exit) && exit.ExitStatus() != 0 {
			code = exit.ExitStatus()
		}
		os.Exit(code)
	}
}

// commandFor returns the command that a binary of this name is.
func commandFor(name string) *cobra.Command {
	var command *cobra.Command
	switch name {
	case "dray-manager":
		command = managerapp.NewCommand()
	case "dray-scheduler":
		command = schedulerapp.NewCommand()
	case "dray-agent":
		command = agentapp.NewCommand()
	default:
		return newCommand(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	}
	command.SilenceErrors, command.SilenceUsage = true, true
	return command
}

func newCommand(streamsIO genericiooptions.IOStreams) *cobra.Command {
	root := &cobra.Command{
		Use:   "dray",
		Short: "Run containers on machines, with the manifests you already have",
		Long: `dray runs Drayage, a container orchestrator that takes Kubernetes manifests under API groups of its own,
and is its command line.`,
		Example: `  # This machine as a cluster
  dray up

  # What would my manifests become, and what has no counterpart?
  dray convert -f app.yaml`,
		Version:       version.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run Drayage:"},
		&cobra.Group{ID: "use", Title: "Use it:"},
	)
	for id, commands := range map[string][]*cobra.Command{
		"run": {up.NewCommand(), server.NewCommand(), agentjoin.NewCommand(), token.NewCommand(), cleannode.NewCommand()},
		"use": {
			kubectl.NewCommand(streamsIO), convert.NewCommand(streamsIO), rollout.NewCommand(streamsIO), delete.NewCommand(streamsIO), explain.NewCommand(streamsIO), net.NewCommand(streamsIO),
			streams.NewLogs(streamsIO), streams.NewExec(streamsIO), streams.NewAttach(streamsIO), streams.NewPortForward(streamsIO),
			drain.NewCordon(streamsIO), drain.NewUncordon(streamsIO), drain.NewDrain(streamsIO), drain.NewTaint(streamsIO),
		},
	} {
		for _, command := range commands {
			command.GroupID = id
			root.AddCommand(command)
		}
	}
	// kubectl's packages end the process with their own messages; they write to the same place.
	cmdutil.BehaviorOnFatal(func(message string, code int) {
		if message != "" {
			fmt.Fprintln(os.Stderr, message)
		}
		os.Exit(code)
	})
	return root
}
