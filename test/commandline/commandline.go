// Package commandline runs dray's whole command line in the test process, against the API server of test/env.
// The specs of dray's commands use it; it decides nothing about what a command should do.
package commandline

import (
	"bytes"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"drayage.dev/cmd/dray/app"
	"drayage.dev/test/env"
)

// Use makes e the cluster of every Run, with its administrator's rights, until the spec or container ends.
func Use(e *env.Env) {
	GinkgoHelper()
	kubeconfig, err := e.Kubeconfig()
	Expect(err).NotTo(HaveOccurred())
	GinkgoT().Setenv(clientcmd.RecommendedConfigPathEnvVar, kubeconfig)
	GinkgoT().Setenv("KUBECACHEDIR", GinkgoT().TempDir())
}

// Run runs dray with args and returns what it printed, to whichever stream, and its exit code. kubectl's end
// of a process is one setting for all: of several at once, only the last to start may fail.
func Run(args ...string) (text string, code int) {
	GinkgoHelper()
	var out bytes.Buffer
	cmdutil.BehaviorOnFatal(func(message string, exit int) {
		code = exit
		fmt.Fprintln(&out, message)
		panic(ended{})
	})
	defer cmdutil.DefaultBehaviorOnFatal()
	defer func() {
		if r := recover(); r != nil && r != (ended{}) {
			panic(r)
		}
		text = out.String()
	}()
	command := app.NewCommand(genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &out, ErrOut: &out})
	command.SetArgs(args)
	if err := command.Execute(); err != nil {
		fmt.Fprintln(&out, "Error:", err)
		code = app.ExitCode(err)
	}
	return "", code
}

// ended takes the place of the end of the process.
type ended struct{}
