// Command dray-dns answers the names of Drayage's services on one node.
package main

import (
	"fmt"
	"os"

	"drayage.dev/cmd/dray-dns/app"
)

func main() {
	if err := app.NewCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
