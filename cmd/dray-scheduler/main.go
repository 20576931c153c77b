// Command dray-scheduler places Drayage's pods on nodes.
package main

import (
	"os"

	"k8s.io/component-base/cli"

	"drayage.dev/cmd/dray-scheduler/app"
)

func main() { os.Exit(cli.Run(app.NewCommand())) }
