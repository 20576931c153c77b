package cgroups

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/utils/ptr"

	"drayage.dev/agent/resources"
)

var _ = Describe("the layout of a machine", func() {
	const (
		unified = "28 22 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid  = "30 22 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		legacy  = "31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
			"32 22 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
			"33 22 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
	)
	It("is read from its mounts", func() {
		Expect(hierarchies(strings.NewReader("21 1 0:20 / /proc rw - proc proc rw\n" + unified))).To(Equal(map[string]string{"": "/sys/fs/cgroup"}))
		Expect(hierarchies(strings.NewReader(legacy + hybrid))).To(Equal(map[string]string{
			"": "/sys/fs/cgroup/unified", "memory": "/sys/fs/cgroup/memory", "cpu": "/sys/fs/cgroup/cpu,cpuacct",
			"cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "name=systemd": "/sys/fs/cgroup/systemd",
		}))
	})
})

var _ = Describe("a tree of version 2", func() {
	It("enables its parents' controllers for its groups, and limits by version 2's files", func() {
		// Files stand for the kernel's: no machine of version 1 has these controllers.
		point := GinkgoT().TempDir()
		tree := &Tree{root: "/drayage", hierarchies: map[string]string{"": point}, unified: true}
		Expect(os.WriteFile(filepath.Join(point, "cgroup.controllers"), []byte("memory rdma\n"), 0o644)).To(Succeed())
		Expect(tree.Create("/drayage/runtime")).To(Succeed())
		Expect(os.ReadFile(filepath.Join(point, "cgroup.subtree_control"))).To(BeEquivalentTo("+memory"))
		Expect(filepath.Join(point, "drayage/runtime/cgroup.subtree_control")).NotTo(BeAnExistingFile(), "processes live there")

		Expect(tree.LimitRoot(1500, 1<<30)).To(Succeed())
		Expect(tree.Read("cpu", "/drayage", "cpu.max")).To(Equal("150000 100000"))
		Expect(tree.Read("memory", "/drayage", "memory.max")).To(Equal("1073741824"))
		Expect(tree.Create("/drayage/burstable/pod1")).To(Succeed())
		Expect(tree.Limit("/drayage/burstable/pod1", resources.Pod{
			CPUShares: ptr.To[uint64](1024), CPUQuota: ptr.To[int64](6_400_000), CPUPeriod: ptr.To[uint64](100_000),
		})).To(Succeed())
		Expect(tree.Read("cpu", "/drayage/burstable/pod1", "cpu.weight")).To(Equal("39"))
		Expect(tree.Read("cpu", "/drayage/burstable/pod1", "cpu.max")).To(Equal("150000 100000"), "no more than the slot")
		Expect(tree.Limit("/drayage/burstable/pod1", resources.Pod{CPUQuota: ptr.To[int64](-1), CPUPeriod: ptr.To[uint64](100_000)})).To(Succeed())
		Expect(tree.Read("cpu", "/drayage/burstable/pod1", "cpu.max")).To(Equal("max 100000"))
	})

	It("moves, finds, kills and removes in the kernel's hierarchy", func(ctx SpecContext) {
		file, err := os.Open("/proc/self/mountinfo")
		Expect(err).NotTo(HaveOccurred())
		defer file.Close()
		point := hierarchies(file)[""]
		Expect(point).NotTo(BeEmpty(), "every machine that we know mounts version 2 beside version 1")
		tree := &Tree{root: fmt.Sprintf("/drayage-test-unified-%d", os.Getpid()), hierarchies: map[string]string{"": point}, unified: true}
		DeferCleanup(func(ctx SpecContext) { Expect(tree.Destroy(ctx)).To(Succeed()) })
		group := tree.root + "/podabc/container"
		Expect(tree.Create(group)).To(Succeed())
		sleeper := exec.Command("sleep", "300")
		Expect(sleeper.Start()).To(Succeed())
		Expect(tree.Enter(group, sleeper.Process.Pid)).To(Succeed())
		Expect(tree.Processes(tree.root)).To(ConsistOf(sleeper.Process.Pid))
		ended := make(chan error, 1)
		go func() { ended <- sleeper.Wait() }()
		Expect(tree.RemovePod(ctx, "abc")).To(Succeed())
		Eventually(ended, time.Minute).Should(Receive(MatchError("signal: killed")))
		Expect(tree.Destroy(ctx)).To(Succeed())
		Expect(filepath.Join(point, tree.root)).NotTo(BeADirectory())
	})
})
