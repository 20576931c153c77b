package app

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

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

// NewCommand returns dray with all its commands. Errors are returned, not printed; kubectl's commands end the
// process with their own messages, unless cmdutil.BehaviorOnFatal says otherwise.
func NewCommand(streamsIO genericiooptions.IOStreams) *cobra.Command {
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
	completeFlags(root)
	nameHelp(root)
	root.SetCompletionCommandGroupID("use")
	root.SetIn(streamsIO.In)
	root.SetOut(streamsIO.Out)
	root.SetErr(streamsIO.ErrOut)
	root.SetFlagErrorFunc(seeHelp)
	return root
}

// nameHelp has the errors of wrong arguments name the help to read.
func nameHelp(command *cobra.Command) {
	if check := command.Args; check != nil {
		command.Args = func(command *cobra.Command, args []string) error {
			if err := check(command, args); err != nil {
				return seeHelp(command, err)
			}
			return nil
		}
	}
	for _, sub := range command.Commands() {
		nameHelp(sub)
	}
}

func seeHelp(command *cobra.Command, err error) error {
	return fmt.Errorf("%w (see %s --help)", err, command.CommandPath())
}

// ExitCode returns what a process exits with after err: what err says itself, as the error of a remote command
// does, else 1.
func ExitCode(err error) int {
	var exit interface{ ExitStatus() int }
	if errors.As(err, &exit) && exit.ExitStatus() != 0 {
		return exit.ExitStatus()
	}
	return 1
}
