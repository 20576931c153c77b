// Command dray-agent runs the pods of one node. It is a thin shell around package app.
package main

import (
	"fmt"
	"os"

	"drayage.dev/cmd/dray-agent/app"
)

func main() {
	if err := app.NewCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "dray-agent:", err)
		os.Exit(1)
	}
}
