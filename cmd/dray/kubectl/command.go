// Package kubectl is `dray kubectl`: kubectl itself, in this binary, which finds this machine's control
// plane without a kubeconfig. It adds nothing else and changes nothing.
package kubectl

import (
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // credentials that a person's kubeconfig may name
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
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
			if err := run(streams, args); err != nil {
				cmdutil.CheckErr(err)
			}
		},
	}
}

func run(streams genericiooptions.IOStreams, args []string) error {
	if err := chooseKubeconfig(args); err != nil {
		return err
	}
	// kubectl reads its plugins' names and its verbosity before it parses anything.
	arguments := append([]string{"kubectl"}, args...)
	if _, err := logs.GlogSetter(kubectlcmd.GetLogVerbosity(arguments)); err != nil {
		return err
	}
	command := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     arguments,
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
			WithDiscoveryBurst(300).WithDiscoveryQPS(50.0).WithWarningPrinter(streams),
		IOStreams: streams,
	})
	command.SetArgs(args)
	return cli.RunNoErrOutput(command)
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
