// Command dray-agent runs the pods of one node. It is a thin shell around package app.
package main

import (
	"fmt"
	"os"

	"drayage.dev/cmd/dray-agent/app"
	"drayage.dev/cmd/dray-agent/pod"
)

func main() {
	command := app.NewCommand()
	command.AddCommand(pod.NewCommand(), pod.NewCleanCommand(), pod.NewEnterCommand())
	if err := command.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "dray-agent:", err)
		os.Exit(1)
	}
}
