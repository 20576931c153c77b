package detached_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"drayage.dev/internal/detached"
)

func TestDetached(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "internal/detached")
}

var _ = Describe("a process that outlives the agent", func() {
	var (
		p    detached.Process
		stop context.CancelFunc
		done chan error
	)
	keep := func() {
		var ctx context.Context
		ctx, stop = context.WithCancel(context.Background())
		done = make(chan error, 1)
		go func() { done <- p.Keep(ctx) }()
	}
	leave := func() {
		GinkgoHelper()
		stop()
		Eventually(done).Should(Receive(BeNil()))
	}
	found := func() int {
		pid, found := p.Find()
		if !found {
			return 0
		}
		return pid
	}
	BeforeEach(func() {
		dir := GinkgoT().TempDir()
		mark := filepath.Join(dir, "mark")
		p = detached.Process{
			Name: "sleeper", Command: []string{"/bin/sh", "-c", "echo $0; while sleep 0.1; do :; done", mark}, Mark: mark, Dir: dir,
			PIDFile: filepath.Join(dir, "pid"), LogFile: filepath.Join(dir, "log"),
		}
		DeferCleanup(func(ctx SpecContext) { Expect(p.Stop(ctx)).To(Succeed()) })
		keep()
		Eventually(found).ShouldNot(BeZero())
	})

	It("is found by the next agent", func() {
		pid := found()
		leave()
		Expect(unix.Kill(pid, 0)).To(Succeed())
		keep()
		Consistently(found, time.Second).Should(Equal(pid))
		leave()
	})

	It("is started again when it dies", func() {
		pid := found()
		Expect(unix.Kill(pid, unix.SIGKILL)).To(Succeed())
		Eventually(found).ShouldNot(Or(BeZero(), Equal(pid)))
		leave()
	})

	It("is not taken for another process that has its number", func() {
		leave()
		Expect(p.Stop(context.Background())).To(Succeed())
		Expect(os.WriteFile(p.PIDFile, []byte("1\n"), 0o644)).To(Succeed())
		Expect(found()).To(BeZero())
		Expect(os.Remove(p.PIDFile)).To(Succeed())
	})

	It("ends when it is stopped", func(ctx SpecContext) {
		pid := found()
		leave()
		Expect(p.Stop(ctx)).To(Succeed())
		Expect(unix.Kill(pid, 0)).To(MatchError(unix.ESRCH))
		Expect(p.Stop(ctx)).To(Succeed(), "a second time")
	})
})
