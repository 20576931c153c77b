package e2e_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/test/cluster"
)

// What a person gets who starts Drayage wrongly: one line that says what to do, and an exit code that is
// not 0.
var _ = Describe("dray refuses in one line", func() {
	// refused runs dray inside the node's network namespace and returns what it says.
	refused := func(ctx context.Context, change func(*exec.Cmd), args ...string) string {
		GinkgoHelper()
		ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + c.Nodes[0].Namespace.Path(), cluster.Binary("dray")}, args...)...)
		if change != nil {
			change(cmd)
		}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		Expect(errors.As(err, &exit)).To(BeTrue(), "%v: %s", err, out)
		Expect(exit.ExitCode()).To(BeNumerically(">", 0))
		message := strings.TrimSpace(string(out))
		Expect(strings.Split(message, "\n")).To(HaveLen(1), message)
		return message
	}
	dirs := func() []string {
		dir := GinkgoT().TempDir()
		return []string{"--data-dir", filepath.Join(dir, "data"), "--run-dir", filepath.Join(dir, "run"), "--cgroup-root", "/drayage-refused"}
	}

	It("a wrong join token", func(ctx SpecContext) {
		token := strings.Repeat("a", 6) + "." + strings.Repeat("b", 16) + "." + strings.Repeat("0", 64)
		Expect(refused(ctx, nil, append([]string{"agent", "--join", "https://172.30.0.2:6443", "--token", token, "--node-name", "x"}, dirs()...)...)).
			To(ContainSubstring("token"))
		Expect(refused(ctx, nil, append([]string{"agent", "--join", "https://172.30.0.2:6443", "--token", "nonsense", "--node-name", "x"}, dirs()...)...)).
			To(ContainSubstring("token"))
	}, SpecTimeout(10*time.Minute))

	It("a data directory of another version", func(ctx SpecContext) {
		arguments := dirs()
		Expect(os.MkdirAll(arguments[1], 0o700)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(arguments[1], "version"), []byte("99\n"), 0o600)).To(Succeed())
		Expect(refused(ctx, nil, "server", "--data-dir", arguments[1])).To(ContainSubstring(arguments[1]))
	}, SpecTimeout(10*time.Minute))

	It("a missing package", func(ctx SpecContext) {
		empty := GinkgoT().TempDir()
		nsenter, err := exec.LookPath("nsenter")
		Expect(err).NotTo(HaveOccurred())
		Expect(refused(ctx, func(cmd *exec.Cmd) {
			cmd.Path, cmd.Err = nsenter, nil
			cmd.Env = []string{"PATH=" + empty, "HOME=" + empty}
		}, append([]string{"up", "--port", "7443"}, dirs()...)...)).
			To(And(ContainSubstring("containerd is missing"), ContainSubstring("apt-get install")))
	}, SpecTimeout(10*time.Minute))

	It("not being root", func(ctx SpecContext) {
		// The spec's own directories are root's only: an ordinary user finds the binary in a copy.
		dir, err := os.MkdirTemp("/tmp", "dray-user-")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.RemoveAll, dir)
		Expect(os.Chmod(dir, 0o755)).To(Succeed())
		binary, err := os.ReadFile(cluster.Binary("dray"))
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(filepath.Join(dir, "dray"), binary, 0o755)).To(Succeed())
		for _, command := range []string{"up", "agent", "clean-node"} {
			cmd := exec.CommandContext(ctx, filepath.Join(dir, "dray"), command)
			cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			out, err := cmd.CombinedOutput()
			Expect(err).To(HaveOccurred(), "dray %s", command)
			message := strings.TrimSpace(string(out))
			Expect(message).To(And(ContainSubstring("root"), ContainSubstring("sudo")), "dray %s", command)
			Expect(strings.Split(message, "\n")).To(HaveLen(1), message)
		}
	}, SpecTimeout(10*time.Minute))
})
