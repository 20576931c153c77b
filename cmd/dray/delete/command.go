package delete

import (
	"net/http"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	kubectldelete "k8s.io/kubectl/pkg/cmd/delete"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"drayage.dev/cmd/dray/client"
)

// NewCommand returns `dray delete`.
func NewCommand(streams genericiooptions.IOStreams) *cobra.Command {
	getter := &getter{Flags: client.NewFlags()}
	command := kubectldelete.NewCmdDelete(cmdutil.NewFactory(getter), streams)
	command.Short = "Delete objects; pods with the grace period that you give"
	command.Long = `Deletes objects by file, by type and name, or by label selector, as kubectl delete does.

A pod ends with the grace period of its spec, or with --grace-period seconds, which reaches its node as
the annotation drayage.dev/deletion-grace-period-seconds. With --force the pod's object goes at once,
without a word from the node: use it for pods of a node that will not come back. A node that does come
back kills what it still runs of them.

Where the API server has pods, deployments and the like of its own, names without a group mean Drayage's.`
	command.Example = `  # By file, by name, by label
  dray delete -f app.yaml
  dray delete deployment web
  dray delete pods -l app=web

  # With ten seconds to end in, in place of what the spec says
  dray delete pod web-0 --grace-period=10

  # Of a node that has burnt down
  dray delete pod web-0 --grace-period=0 --force`
	command.SilenceUsage = true
	run := command.Run
	command.Run = func(command *cobra.Command, args []string) {
		getter.force, _ = command.Flags().GetBool("force")
		run(command, args)
	}
	getter.AddFlags(command.Flags())
	return command
}

// getter gives kubectl's command an API server on which pods end as asked.
type getter struct {
	*client.Flags
	force bool
}

func (g *getter) ToRESTConfig() (*rest.Config, error) {
	config, err := g.Flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.Wrap(func(below http.RoundTripper) http.RoundTripper {
		return &graceful{below: below, force: g.force}
	})
	return config, nil
}
