package explain

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"

	"drayage.dev/cmd/dray/client"
	"drayage.dev/scheduler"
)

// NewCommand returns `dray explain`.
func NewCommand(streams genericiooptions.IOStreams) *cobra.Command {
	flags := client.NewFlags()
	var configFile string
	command := &cobra.Command{
		Use:   "explain pod NAME",
		Short: "Show what the scheduler's plugins make of a pod on each node",
		Long: `Places a pod in thought, in the cluster as it is now, and shows for each node which plugin refuses the pod
and why, or how each plugin scores the node: weighted, and compared with the other nodes that would take
the pod. The node with the highest total wins; equal ones are equally good.

The plugins run here, on what the API server tells; nothing is changed. A pod that runs already is looked
at as if it did not, so that what is shown may differ from what was so when it was placed.`,
		Example: `  # Why is my pod pending? Why is it where it is?
  dray explain pod web-7d4b9c-x2x5z

  # With a scheduler that has a configuration of its own
  dray explain pod web-7d4b9c-x2x5z --scheduler-config scheduler.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if _, err := podName(args); err != nil {
				return err
			}
			return nil
		},
		ValidArgsFunction: completion.SpecifiedResourceTypeAndNameNoRepeatCompletionFunc(cmdutil.NewFactory(flags), []string{"pod"}),
		SilenceUsage:      true,
		RunE: func(command *cobra.Command, args []string) error {
			name, err := podName(args)
			if err != nil {
				return err
			}
			config := scheduler.Config{}
			if config.RESTConfig, err = flags.ToRESTConfig(); err != nil {
				return err
			}
			namespace, err := flags.CurrentNamespace()
			if err != nil {
				return err
			}
			if configFile != "" {
				if config.Configuration, err = scheduler.LoadConfiguration(configFile); err != nil {
					return err
				}
			}
			explanation, err := scheduler.Explain(command.Context(), config, namespace, name)
			if err != nil {
				return err
			}
			return write(streams.Out, explanation)
		},
	}
	flags.AddFlags(command.Flags())
	command.Flags().StringVar(&configFile, "scheduler-config", "", "KubeSchedulerConfiguration file that the scheduler runs with (default: its defaults)")
	return command
}

// podName reads "pod NAME" or "pod/NAME".
func podName(args []string) (string, error) {
	if len(args) == 1 {
		args = strings.SplitN(args[0], "/", 2)
	}
	if len(args) != 2 || args[1] == "" {
		return "", fmt.Errorf("name a pod: dray explain pod NAME")
	}
	switch args[0] {
	case "pod", "pods", "po", "dpo":
		return args[1], nil
	}
	return "", fmt.Errorf("%q cannot be explained, only pods can (for the fields of a kind, see dray kubectl explain)", args[0])
}

// write writes an explanation as a sentence and a table, best nodes first.
func write(out io.Writer, e *scheduler.Explanation) error {
	feasible := 0
	for _, node := range e.Nodes {
		if node.RefusedBy == "" {
			feasible++
		}
	}
	where := "is on no node"
	if e.Pod.Spec.NodeName != "" {
		where = "is on " + e.Pod.Spec.NodeName
	}
	fmt.Fprintf(out, "Pod %s/%s %s. ", e.Pod.Namespace, e.Pod.Name, where)
	if e.Refusal != "" {
		_, err := fmt.Fprintf(out, "No node would take it now: %s.\n", e.Refusal)
		return err
	}
	fmt.Fprintf(out, "%d of %d nodes would take it now.\n\n", feasible, len(e.Nodes))

	var aligned strings.Builder
	table := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	header := []string{"NODE", "TOTAL"}
	if feasible > 0 {
		header = append(header, e.Plugins...)
	}
	fmt.Fprintln(table, strings.Join(append(header, "REFUSED"), "\t"))
	for _, node := range e.Nodes {
		cells := []string{node.Name, "-"}
		refused := ""
		if node.RefusedBy == "" {
			cells[1] = strconv.FormatInt(node.Total, 10)
		} else {
			refused = node.RefusedBy + ": " + strings.Join(node.Reasons, ", ")
		}
		if feasible > 0 {
			for _, plugin := range e.Plugins {
				// Plugins that have nothing to say about the pod do not score at all.
				cell := "-"
				if score, ok := node.Scores[plugin]; ok {
					cell = strconv.FormatInt(score, 10)
				}
				cells = append(cells, cell)
			}
		}
		fmt.Fprintln(table, strings.Join(append(cells, refused), "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(aligned.String()) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
