package cgroups_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"drayage.dev/agent/cgroups"
	"drayage.dev/agent/resources"
)

func TestCgroups(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "cgroups")
}

var _ = Describe("a tree", func() {
	var tree *cgroups.Tree
	BeforeEach(func() {
		Expect(os.Geteuid()).To(BeZero(), "cgroups need root")
		var err error
		tree, err = cgroups.Open(fmt.Sprintf("/drayage-test-cgroups-%d", os.Getpid()))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func(ctx SpecContext) { Expect(tree.Destroy(ctx)).To(Succeed()) })
	})

	It("refuses roots that are not its own", func() {
		for _, root := range []string{"", "/", "drayage", "/drayage/../other"} {
			_, err := cgroups.Open(root)
			Expect(err).To(HaveOccurred(), root)
		}
		Expect(tree.Create("/elsewhere")).NotTo(Succeed())
	})

	It("makes a pod's group, limits it, and kills and removes it by UID", func(ctx SpecContext) {
		path := tree.Root() + "/burstable/podabc"
		Expect(tree.Create(path)).To(Succeed())
		Expect(tree.Create(path)).To(Succeed(), "a second time")
		Expect(tree.Limit(path, resources.Pod{CPUShares: ptr.To[uint64](512), CPUQuota: ptr.To[int64](50000), CPUPeriod: ptr.To[uint64](100000), Memory: ptr.To[int64](64 << 20)})).To(Succeed())
		if tree.Unified() {
			Expect(tree.Read("memory", path, "memory.max")).To(Equal("67108864"))
			Expect(tree.Read("cpu", path, "cpu.max")).To(Equal("50000 100000"))
		} else {
			Expect(tree.Read("memory", path, "memory.limit_in_bytes")).To(Equal("67108864"))
			Expect(tree.Read("cpu", path, "cpu.shares")).To(Equal("512"))
			Expect(tree.Read("cpu", path, "cpu.cfs_quota_us")).To(Equal("50000"))
		}
		Expect(tree.Pods()).To(ConsistOf(types.UID("abc")))

		sleeper := exec.Command("sleep", "300")
		Expect(sleeper.Start()).To(Succeed())
		Expect(tree.Create(path + "/container")).To(Succeed())
		Expect(tree.Enter(path+"/container", sleeper.Process.Pid)).To(Succeed())
		Expect(tree.Processes(tree.Root())).To(ConsistOf(sleeper.Process.Pid))
		ended := make(chan error, 1)
		go func() { ended <- sleeper.Wait() }()
		Expect(tree.RemovePod(ctx, "abc")).To(Succeed())
		Eventually(ended, time.Minute).Should(Receive(MatchError("signal: killed")))
		Expect(tree.RemovePod(ctx, "abc")).To(Succeed(), "a second time")
		Expect(tree.Pods()).To(BeEmpty())
		Expect(filepath.Glob("/sys/fs/cgroup/*" + path)).To(BeEmpty())
	})
})
