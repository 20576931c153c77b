package app_test

import (
	"errors"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/util/exec"

	"drayage.dev/cmd/dray/app"
	"drayage.dev/test/commandline"
)

var _ = Describe("a wrong command line", func() {
	DescribeTable("ends with one line that says what to do, and exit code 1", func(want string, line ...string) {
		GinkgoT().Setenv("HOME", GinkgoT().TempDir())
		GinkgoT().Setenv("KUBECONFIG", "")
		text, code := commandline.Run(line...)
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring(want))
		Expect(strings.Count(text, "\n")).To(Equal(1), text)
	},
		Entry(nil, `unknown command "nothing" for "dray"`, "nothing"),
		Entry(nil, "unknown flag: --nothing (see dray up --help)", "up", "--nothing"),
		Entry(nil, "unknown flag: --nothing (see dray drain --help)", "drain", "--nothing"),
		Entry(nil, `unknown command "creat" for "dray token" (see dray token --help)`, "token", "creat"),
		Entry(nil, "requires at least 1 arg(s), only received 0 (see dray token delete --help)", "token", "delete"),
		Entry(nil, "name a pod: dray explain pod NAME", "explain"),
		Entry(nil, "name them with -f", "convert"),
		Entry(nil, "name a kubeconfig file with --kubeconfig", "token", "list", "--data-dir", "/none"),
		Entry(nil, "name a kubeconfig file with --kubeconfig", "drain", "node-1", "--data-dir", "/none"),
		Entry(nil, "name a kubeconfig file with --kubeconfig", "net", "check", "--data-dir", "/none"),
	)

	It("exits as a remote command does", func() {
		Expect(app.ExitCode(exec.CodeExitError{Err: errors.New("gone"), Code: 7})).To(Equal(7))
		Expect(app.ExitCode(errors.New("broken"))).To(Equal(1))
	})
})
