// Command dray-manager runs Drayage's controllers.
package main

import (
	"os"

	"k8s.io/component-base/cli"

	"drayage.dev/cmd/dray-manager/app"
)

func main() {
	os.Exit(cli.Run(app.NewCommand()))
}
