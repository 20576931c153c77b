package app_test

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/cmd/dray-manager/app"
)

func TestApp(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "cmd/dray-manager/app")
}

var _ = Describe("dray-manager", func() {
	It("names the kubeconfig that it cannot read", func(ctx context.Context) {
		cfg := app.DefaultConfig()
		cfg.Kubeconfig = filepath.Join(GinkgoT().TempDir(), "missing.conf")
		Expect(app.Run(ctx, cfg)).To(MatchError(And(ContainSubstring("reading the kubeconfig"), ContainSubstring(cfg.Kubeconfig))))
	})

	It("refuses arguments and unknown flags", func() {
		for _, args := range [][]string{{"something"}, {"--no-such-flag"}} {
			command := app.NewCommand()
			command.SetArgs(args)
			command.SetOut(io.Discard)
			command.SetErr(io.Discard)
			Expect(command.Execute()).NotTo(Succeed())
		}
	})
})
