//go:build cluster

package kubelet_test

import (
	"os"
	"os/exec"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// process is one of the machine's own programs.
type process struct {
	cmd *exec.Cmd
}

// start starts a program that writes its log to a file.
func start(log string, argv ...string) *process {
	GinkgoHelper()
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	Expect(err).NotTo(HaveOccurred())
	defer file.Close()
	p := &process{cmd: exec.Command(argv[0], argv[1:]...)}
	p.cmd.Stdout, p.cmd.Stderr = file, file
	Expect(p.cmd.Start()).To(Succeed(), "run `make test-kubelet`")
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
