package agentjoin_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/cmd/dray/agentjoin"
)

var _ = Describe("dray agent", func() {
	var dir string

	BeforeEach(func() { dir = GinkgoT().TempDir() })

	agent := func(ctx context.Context, args ...string) error {
		command := agentjoin.NewCommand()
		command.SetOut(io.Discard)
		command.SetArgs(append(args, "--data-dir", dir, "--run-dir", filepath.Join(dir, "run"), "--node-name", "n1"))
		return command.ExecuteContext(ctx)
	}
	oneLine := func(substrings ...string) OmegaMatcher {
		matchers := []OmegaMatcher{Not(ContainSubstring("\n"))}
		for _, want := range substrings {
			matchers = append(matchers, ContainSubstring(want))
		}
		return MatchError(And(matchers...))
	}
	token := "abcdef.0123456789abcdef." + strings.Repeat("0", 64)

	It("says what a machine needs that has not joined", func(ctx context.Context) {
		Expect(agent(ctx)).To(oneLine("has not joined a cluster", "--join", "dray token create"))
		Expect(agent(ctx, "--join", "https://127.0.0.1:1")).To(oneLine("pass --token", "dray token create"))
	})

	It("says what is wrong with a token, a URL, a server", func(ctx context.Context) {
		Expect(agent(ctx, "--join", "https://127.0.0.1:1", "--token", "x")).To(oneLine("<id>.<secret>.<pin>"))
		Expect(agent(ctx, "--join", "127.0.0.1:1", "--token", token)).To(oneLine("is not a URL such as https://"))
		Expect(agent(ctx, "--join", "https://127.0.0.1:1", "--token", token)).To(oneLine("connection refused", "check that `dray server` runs there"))
	})

	It("refuses a data directory of another version", func(ctx context.Context) {
		Expect(os.WriteFile(filepath.Join(dir, "version"), []byte("0\n"), 0o600)).To(Succeed())
		Expect(agent(ctx)).To(oneLine(`it has format "0"`, "--data-dir"))
	})
})
