// Package kubectl is `dray kubectl`: kubectl itself, in this binary, which finds this machine's control
// plane without a kubeconfig. It adds nothing else and changes nothing.
package kubectl

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // credentials that a person's kubeconfig may name
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"drayage.dev/cmd/dray/client"
)

// NewCommand returns `dray kubectl`. It hands its arguments on as they are.
func NewCommand(streams genericiooptions.IOStreams) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [kubectl's arguments]",
		Short: "Run kubectl",
		Long: `Runs kubectl, which is built in. Without --kubeconfig, KUBECONFIG and ~/.kube/config it uses the
administrator's kubeconfig of this machine's control plane (` + client.DefaultDataDir + `).`,
		Example: `  dray kubectl get pods -A
  dray kubectl apply -f app.yaml`,
		DisableFlagParsing: true,
		SilenceUsage:       true,
		SilenceErrors:      true,
		Run: func(_ *cobra.Command, args []string) {
			command, err := newKubectl(streams, args)
			if err == nil {
				err = cli.RunNoErrOutput(command)
			}
			if err != nil {
				cmdutil.CheckErr(err)
			}
		},
		ValidArgsFunction: complete,
	}
}

// complete asks kubectl what may come next, as a shell would ask it.
func complete(_ *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out bytes.Buffer
	streams := genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &out, ErrOut: io.Discard}
	command, err := newKubectl(streams, slices.Concat([]string{cobra.ShellCompRequestCmd}, args, []string{begun}))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	command.SetOut(streams.Out)
	command.SetErr(streams.ErrOut)
	// As cli.RunNoErrOutput does it, but without a logger for the whole process: nothing is logged here.
	logs.AddFlags(command.PersistentFlags())
	command.SetGlobalNormalizationFunc(cliflag.WordSepNormalizeFunc)
	if err := command.Execute(); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	// The answer is a word a line, and ":" with the directive in the last.
	words := strings.Split(strings.TrimSpace(out.String()), "\n")
	last := len(words) - 1
	directive, err := strconv.Atoi(strings.TrimPrefix(words[last], ":"))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return words[:last], cobra.ShellCompDirective(directive)
}

// newKubectl returns kubectl, which is about to run with args.
func newKubectl(streams genericiooptions.IOStreams, args []string) (*cobra.Command, error) {
	if err := chooseKubeconfig(args); err != nil {
		return nil, err
	}
	// kubectl reads its plugins' names and its verbosity before it parses anything.
	arguments := append([]string{"kubectl"}, args...)
	if _, err := logs.GlogSetter(kubectlcmd.GetLogVerbosity(arguments)); err != nil {
		return nil, err
	}
	command := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     arguments,
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
			WithDiscoveryBurst(300).WithDiscoveryQPS(50.0).WithWarningPrinter(streams),
		IOStreams: streams,
	})
	command.SetArgs(args)
	return command, nil
}

// chooseKubeconfig sets KUBECONFIG to this machine's administrator's where nothing else is named. Commands
// that need no server must not fail for want of one, so the lack of it is left for kubectl to report.
func chooseKubeconfig(args []string) error {
	named := slices.ContainsFunc(args, func(arg string) bool {
		return arg == "--kubeconfig" || strings.HasPrefix(arg, "--kubeconfig=") ||
			arg == "--server" || strings.HasPrefix(arg, "--server=") || arg == "-s"
	})
	if named {
		return nil
	}
	file, err := client.Kubeconfig(client.DefaultDataDir)
	if err != nil || file == "" {
		return nil
	}
	return os.Setenv(clientcmd.RecommendedConfigPathEnvVar, file)
}
