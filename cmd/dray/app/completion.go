package app

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"

	"drayage.dev/cmd/dray/client"
)

// completeFlags offers namespaces and contexts wherever a command below root takes one. What a command's
// arguments can be, the command itself knows.
func completeFlags(root *cobra.Command) {
	for flag, offered := range map[string]func(cmdutil.Factory, string) []string{
		"namespace": func(f cmdutil.Factory, begun string) []string {
			return completion.CompGetResource(f, "namespace", begun)
		},
		"context": func(f cmdutil.Factory, begun string) []string {
			completion.SetFactoryForCompletion(f)
			return completion.ListContextsInConfig(begun)
		},
	} {
		if root.LocalFlags().Lookup(flag) != nil {
			cmdutil.CheckErr(root.RegisterFlagCompletionFunc(flag, func(command *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
				return offered(cmdutil.NewFactory(given(command)), begun), cobra.ShellCompDirectiveNoFileComp
			}))
		}
	}
	for _, command := range root.Commands() {
		completeFlags(command)
	}
}

// given returns the cluster that a command line names so far.
func given(command *cobra.Command) *client.Flags {
	flags, set := client.NewFlags(), pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.AddFlags(set)
	command.Flags().Visit(func(flag *pflag.Flag) {
		if own := set.Lookup(flag.Name); own != nil {
			_ = own.Value.Set(flag.Value.String()) // it has been parsed by the same type already
		}
	})
	return flags
}
