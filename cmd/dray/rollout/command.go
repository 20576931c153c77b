package rollout

import (
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	kubectlrollout "k8s.io/kubectl/pkg/cmd/rollout"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"

	"drayage.dev/cmd/dray/client"
)

// NewCommand returns `dray rollout` with its subcommands.
func NewCommand(streams genericiooptions.IOStreams) *cobra.Command {
	flags := client.NewFlags()
	streams.Out = &ownNames{to: streams.Out}
	factory := cmdutil.NewFactory(&getter{flags})
	command := &cobra.Command{
		Use:   "rollout SUBCOMMAND",
		Short: "Watch, undo, pause, resume and restart the rollout of a Deployment",
		Long: `Manages the rollout of Drayage's Deployments, as kubectl rollout manages Kubernetes' own.

status waits until the rollout is complete and exits with 1 when its progress deadline has passed or
--timeout is over.`,
		Example: `  # Wait until everything runs the new version
  dray rollout status deployment/web --timeout=2m

  # What was rolled out, and what a revision looked like
  dray rollout history deployment/web
  dray rollout history deployment/web --revision=3

  # Back to the version before, or to a certain one
  dray rollout undo deployment/web
  dray rollout undo deployment/web --to-revision=3

  # Make several changes one rollout
  dray rollout pause deployment/web
  dray rollout resume deployment/web

  # Replace all pods, one after the other
  dray rollout restart deployment/web`,
		SilenceUsage: true,
		Run:          cmdutil.DefaultSubCommandRun(streams.ErrOut),
	}
	flags.AddFlags(command.PersistentFlags())
	for _, sub := range []*cobra.Command{
		kubectlrollout.NewCmdRolloutStatus(factory, streams),
		kubectlrollout.NewCmdRolloutHistory(factory, streams),
		kubectlrollout.NewCmdRolloutUndo("dray", factory, streams),
		kubectlrollout.NewCmdRolloutPause(factory, streams),
		kubectlrollout.NewCmdRolloutResume(factory, streams),
		kubectlrollout.NewCmdRolloutRestart(factory, streams),
	} {
		sub.ValidArgsFunction = completion.SpecifiedResourceTypeAndNameCompletionFunc(factory, []string{"deployment"})
		command.AddCommand(adapt(sub))
	}
	return command
}

// adapt makes one of kubectl's commands speak of dray, and lets its arguments name Deployments in all the
// ways that people name Drayage's.
func adapt(command *cobra.Command) *cobra.Command {
	command.Example = strings.ReplaceAll(command.Example, "kubectl ", "dray ")
	command.Long = strings.ReplaceAll(command.Long, "kubectl ", "dray ")
	run := command.Run
	command.Run = func(command *cobra.Command, args []string) {
		for i, arg := range args {
			args[i] = upstreamArgument(i, arg)
		}
		run(command, args)
	}
	// Files would have to be of upstream's group: there is nothing to gain from them here.
	for _, name := range []string{"filename", "kustomize", "recursive"} {
		if flag := command.Flags().Lookup(name); flag != nil {
			flag.Hidden, flag.Shorthand = true, ""
		}
	}
	return command
}

// upstreamArgument names the resource of an argument as the static mapping below does.
func upstreamArgument(position int, arg string) string {
	kind, name, slash := strings.Cut(arg, "/")
	if !slash && position > 0 {
		return arg // a name
	}
	kind = strings.TrimSuffix(kind, ".apps.drayage.dev")
	kind = strings.TrimSuffix(kind, ".v1")
	switch kind {
	case "deploy", "ddeploy":
		kind = "deployments"
	}
	if slash {
		return kind + "/" + name
	}
	return kind
}

// getter gives kubectl's commands an API server whose apps group is Drayage's.
type getter struct{ *client.Flags }

func (g *getter) ToRESTConfig() (*rest.Config, error) {
	config, err := g.Flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	// What is translated is JSON.
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.Wrap(func(below http.RoundTripper) http.RoundTripper { return &translator{below} })
	return config, nil
}

// ToRESTMapper knows the kinds that roll out, and needs no discovery.
func (g *getter) ToRESTMapper() (meta.RESTMapper, error) {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{appsv1.SchemeGroupVersion})
	mapper.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	return mapper, nil
}
