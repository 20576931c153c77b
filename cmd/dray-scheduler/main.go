// Command dray-scheduler places Drayage's pods on nodes.
package main

import (
	"fmt"
	"os"

	"k8s.io/component-base/cli"

	"drayage.dev/cmd/dray-scheduler/app"
)

func main() {
	if err := cli.RunNoErrOutput(app.NewCommand()); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
