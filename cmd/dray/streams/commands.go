package streams

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/attach"
	"k8s.io/kubectl/pkg/cmd/exec"
	"k8s.io/kubectl/pkg/cmd/logs"
	"k8s.io/kubectl/pkg/cmd/portforward"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"drayage.dev/cmd/dray/client"
)

// NewLogs returns `dray logs`.
func NewLogs(streams genericiooptions.IOStreams) *cobra.Command {
	return newCommand(streams, logs.NewCmdLogs, `Prints the log of a container of a pod, or of the first pod of a Deployment, ReplicaSet or Service.
The container may be left out where the pod has only one.`, `  # The log of a pod, then what comes, until Ctrl-C
  dray logs web-0
  dray logs -f web-0

  # Of one container, and of the one that ran before the last restart
  dray logs web-0 -c proxy
  dray logs web-0 -c proxy --previous

  # The last lines, the last hour, with times
  dray logs web-0 --tail=20 --since=1h --timestamps

  # Of a pod of a Deployment, of all pods with a label
  dray logs deployment/web
  dray logs -l app=web --prefix`, "insecure-skip-tls-verify-backend")
}

// NewExec returns `dray exec`. It exits with the exit code of the command that it ran.
func NewExec(streams genericiooptions.IOStreams) *cobra.Command {
	return newCommand(streams, exec.NewCmdExec, `Runs a command in a running container of a pod, or of the first pod of a Deployment, ReplicaSet or
Service, and exits with its exit code.`, `  # A command, and a shell
  dray exec web-0 -- date
  dray exec -it web-0 -- sh

  # In a certain container; with input
  dray exec web-0 -c proxy -- cat /etc/hosts
  dray exec -i web-0 -- tee /data/file < file

  # In a pod of a Deployment
  dray exec deployment/web -- env`, "filename")
}

// NewAttach returns `dray attach`.
func NewAttach(streams genericiooptions.IOStreams) *cobra.Command {
	return newCommand(streams, attach.NewCmdAttach, `Attaches to the process that already runs in a container of a pod.`,
		`  # See what it prints from now on
  dray attach web-0

  # Talk to it
  dray attach -it web-0 -c shell`)
}

// NewPortForward returns `dray port-forward`.
func NewPortForward(streams genericiooptions.IOStreams) *cobra.Command {
	return newCommand(streams, portforward.NewCmdPortForward, `Forwards local ports to a pod, or to a pod of a Deployment, ReplicaSet or Service, until Ctrl-C or
until the pod ends.`, `  # Local port 8080 to the pod's port 80, any free port to its port 80
  dray port-forward pod/web-0 8080:80
  dray port-forward pod/web-0 :80

  # To a pod behind a Service, by the Service's port
  dray port-forward service/web 8080:http`)
}

// newCommand makes one of kubectl's commands dray's. Hidden are flags that mean nothing here.
func newCommand(streams genericiooptions.IOStreams, upstream func(cmdutil.Factory, genericiooptions.IOStreams) *cobra.Command, long, example string, hidden ...string) *cobra.Command {
	flags := client.NewFlags()
	command := upstream(cmdutil.NewFactory(cmdutil.NewMatchVersionFlags(&getter{flags})), streams)
	command.Long, command.Example = long, example
	complete := command.ValidArgsFunction
	command.ValidArgsFunction = func(command *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		found, directive := complete(command, args, begun)
		// kubectl offers StatefulSets and the like as well.
		return slices.DeleteFunc(found, func(word string) bool {
			kind, _, typed := strings.Cut(word, "/")
			return typed && kinds[kind] == ""
		}), directive
	}
	command.SilenceUsage = true
	flags.AddFlags(command.Flags())
	for _, name := range hidden {
		command.Flags().Lookup(name).Hidden = true
	}
	run := command.Run
	command.Run = func(command *cobra.Command, args []string) {
		// Only the first argument names an object, unless it belongs to the command to run.
		if len(args) > 0 && command.ArgsLenAtDash() != 0 {
			args[0] = upstreamArgument(args[0])
		}
		run(command, args)
	}
	return command
}

// kinds are the resources that lead to a pod, by all the names that people give them.
var kinds = map[string]string{
	"po": "pods", "dpo": "pods", "pod": "pods", "pods": "pods",
	"svc": "services", "dsvc": "services", "service": "services", "services": "services",
	"deploy": "deployments", "ddeploy": "deployments", "deployment": "deployments", "deployments": "deployments",
	"rs": "replicasets", "drs": "replicasets", "replicaset": "replicasets", "replicasets": "replicasets",
}

// upstreamArgument names the resource of TYPE/NAME as the static mapping does. Drayage's groups may be
// given, upstream's may be left out.
func upstreamArgument(arg string) string {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok {
		return arg
	}
	resource, _, _ := strings.Cut(kind, ".")
	if known, ok := kinds[strings.ToLower(resource)]; ok {
		return known + "/" + name
	}
	return arg
}
