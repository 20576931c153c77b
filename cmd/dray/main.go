// Command dray is Drayage on one machine and its command line: `dray up`, `dray server` and `dray agent` run
// the product, the other commands use it. Called by the name of another binary of Drayage (a link named
// dray-dns, say) it is that binary, so that one file can carry all of them.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	agentapp "drayage.dev/cmd/dray-agent/app"
	managerapp "drayage.dev/cmd/dray-manager/app"
	schedulerapp "drayage.dev/cmd/dray-scheduler/app"
	"drayage.dev/cmd/dray/app"
)

func main() {
	command := commandFor(filepath.Base(os.Args[0]))
	if err := command.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(app.ExitCode(err))
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
		return app.NewCommand(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	}
	command.SilenceErrors, command.SilenceUsage = true, true
	return command
}
