package net

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"

	"drayage.dev/cmd/dray/client"
)

// NewCommand returns `dray net`.
func NewCommand(streams genericiooptions.IOStreams) *cobra.Command {
	command := &cobra.Command{
		Use:   "net",
		Short: "Find what is broken in the network",
		Long: `Finds what is broken in the network of pods, nodes and services. Its one command, check, asks the nodes' agents;
dray net check --help says what about.`,
		Example: `  dray net check
  dray net check --from pod/web-7d4b9c-x2x5z --to service/user-service`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(newCheck(streams))
	return command
}

func newCheck(streams genericiooptions.IOStreams) *cobra.Command {
	flags := client.NewFlags()
	var from, to string
	var verbose bool
	command := &cobra.Command{
		Use:   "check [--from pod/NAME|node/NAME] [--to pod/NAME|node/NAME|service/NAME]",
		Short: "Say in words what is broken between pods, nodes and services",
		Long: `Looks for what is broken between two nodes, or between a pod or node and a pod, node or service, and says it
in sentences: readiness and endpoints in the API; on the nodes concerned routes, tunnel, packet sizes and the kernel's
service maps; DNS answers; and whether connections come about. Without --from it looks from every node, without --to to
every other node. Nothing is changed.

The nodes' agents do the looking. It needs the right to create nodes/check in the group subresources.drayage.dev, and to
read what is named. It exits with 1 when something is broken.`,
		Example: `  # Can every node reach every other one, and its pods?
  dray net check

  # Why does my pod not reach my service?
  dray net check --from pod/web-7d4b9c-x2x5z --to service/user-service

  # From everywhere to one pod of another namespace, with what is all right
  dray net check --to pod/shop/db-0 -v`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := flags.ToRESTConfig()
			if err != nil {
				return err
			}
			namespace, err := flags.CurrentNamespace()
			if err != nil {
				return err
			}
			check, err := newCheckOf(config, namespace, from, to)
			if err != nil {
				return err
			}
			slow := time.AfterFunc(time.Second, func() {
				fmt.Fprintf(streams.ErrOut, "%s: the nodes are looking, which takes as long as connections that do not come about...\n", check.title())
			})
			defer slow.Stop()
			findings, err := check.run(command.Context())
			if err != nil {
				return err
			}
			return write(streams.Out, check.title(), findings, verbose)
		},
	}
	flags.AddFlags(command.Flags())
	command.Flags().StringVar(&from, "from", "", "where the ways begin: pod/NAME, pod/NAMESPACE/NAME or node/NAME (default: every node)")
	command.Flags().StringVar(&to, "to", "", "where they lead: pod/NAME, node/NAME or service/NAME (default: every other node)")
	for flag, kinds := range map[string][]string{"from": {kindPod, kindNode}, "to": {kindPod, kindNode, kindService}} {
		complete := completion.SpecifiedResourceTypeAndNameCompletionFunc(cmdutil.NewFactory(flags), kinds)
		cmdutil.CheckErr(command.RegisterFlagCompletionFunc(flag, func(command *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			// After an argument with a slash only the like of it is offered: KIND/NAME, never KIND alone.
			return complete(command, []string{"/"}, begun)
		}))
	}
	command.Flags().BoolVarP(&verbose, "verbose", "v", false, "say what is all right, too")
	return command
}

// brokenError says that something is broken, which has been written already.
type brokenError int

func (e brokenError) Error() string {
	if e == 1 {
		return "one thing is broken"
	}
	return fmt.Sprintf("%d things are broken", int(e))
}

// ExitStatus is the command's exit code.
func (brokenError) ExitStatus() int { return 1 }

// write writes what is broken, and with verbose the rest.
func write(out io.Writer, title string, findings []finding, verbose bool) error {
	broken := 0
	var text strings.Builder
	for _, f := range findings {
		if f.Broken {
			broken++
			fmt.Fprintf(&text, "  BROKEN  %s\n", f.Message)
		} else if verbose {
			fmt.Fprintf(&text, "  ok      %s\n", f.Message)
		}
	}
	_, err := fmt.Fprintf(out, "%s: %d of %d things are broken.\n%s", title, broken, len(findings), text.String())
	if err == nil && broken > 0 {
		err = brokenError(broken)
	}
	return err
}
