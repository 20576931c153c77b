package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// pages says more about a command, relative to docs/. Each command of dray has one.
var pages = map[string]string{
	"up": "install-bare-machines.md", "server": "install-bare-machines.md", "agent": "install-bare-machines.md",
	"token": "install-bare-machines.md", "clean-node": "install-bare-machines.md",
	"kubectl": "concepts.md", "convert": "concepts.md", "delete": "concepts.md", "rollout": "kinds/deployment.md", "explain": "scheduling.md", "net": "services.md",
	"logs": "kinds/pod.md", "exec": "kinds/pod.md", "attach": "kinds/pod.md", "port-forward": "kinds/pod.md",
	"cordon": "disruptions.md", "uncordon": "disruptions.md", "drain": "disruptions.md", "taint": "kinds/node.md",
}

// commands is the tree of commands as tables, one per group.
func commands(root *cobra.Command) (string, error) {
	var b strings.Builder
	for _, group := range root.Groups() {
		fmt.Fprintf(&b, "## %s\n\n| command | does | more |\n| --- | --- | --- |\n", strings.TrimSuffix(group.Title, ":"))
		for _, command := range root.Commands() {
			if command.GroupID != group.ID || command.Hidden {
				continue
			}
			page := pages[command.Name()]
			if page == "" {
				return "", fmt.Errorf("%s: name its page in test/docs/commands.go", command.CommandPath())
			}
			rows(&b, command, fmt.Sprintf("[%s](%s)", strings.TrimSuffix(page[strings.LastIndex(page, "/")+1:], ".md"), page))
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}

// rows writes a command and those below it.
func rows(b *strings.Builder, command *cobra.Command, more string) {
	fmt.Fprintf(b, "| `%s` | %s | %s |\n", command.CommandPath(), strings.TrimSuffix(command.Short, "."), more)
	for _, sub := range command.Commands() {
		if !sub.Hidden {
			rows(b, sub, more)
		}
	}
}
