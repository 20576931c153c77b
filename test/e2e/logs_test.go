package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/network/netlab"
	"drayage.dev/test/cluster"
)

var _ = Describe("dray up --logging-format=json", func() {
	It("writes a JSON object a line, the DNS server's process too, from start to end", func(ctx SpecContext) {
		machine, err := netlab.NewNode()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(machine.Delete()).To(Succeed()) })
		dir := GinkgoT().TempDir()
		log, place := filepath.Join(dir, "stderr"), []string{"--data-dir", filepath.Join(dir, "data"), "--run-dir", filepath.Join(dir, "run"),
			"--cgroup-root", fmt.Sprintf("/drayage-logs-%d", os.Getpid())}
		// What people read goes to the standard output.
		up := cluster.NewProcess("up", filepath.Join(dir, "stdout"), append([]string{"nsenter", "--net=" + machine.Path, "sh", "-c", `exec "$@" 2>"$0"`, log,
			cluster.Binary("dray"), "up", "--logging-format=json", "--take-down", "--node-name=logs", "--advertise-address=" + machine.Address.String()}, place...)...)
		DeferCleanup(func() {
			Expect(up.Kill()).To(Succeed())
			clean := cluster.NewProcess("clean-node", filepath.Join(dir, "clean"), append([]string{"nsenter", "--net=" + machine.Path, cluster.Binary("dray"), "clean-node"}, place...)...)
			Expect(clean.Start()).To(Succeed())
			Eventually(clean.Running).Should(BeFalse())
		})
		Expect(up.Start()).To(Succeed())

		said := func() string {
			text, err := os.ReadFile(log)
			if !os.IsNotExist(err) { // the shell makes it
				Expect(err).NotTo(HaveOccurred())
			}
			return string(text)
		}
		Eventually(func() string {
			Expect(up.Running()).To(BeTrue(), said())
			return said()
		}).WithContext(ctx).WithTimeout(3 * time.Minute).Should(ContainSubstring(`"msg":"Node runs"`))
		Expect(up.Stop()).To(Succeed())
		dns, err := os.ReadFile(filepath.Join(dir, "data", "agent", "dns.log"))
		Expect(err).NotTo(HaveOccurred())
		for line := range strings.Lines(said() + string(dns)) {
			entry := struct {
				TS  float64
				Msg string
			}{}
			Expect(json.Unmarshal([]byte(line), &entry)).To(Succeed(), line)
			Expect(entry.Msg).NotTo(BeEmpty(), line)
			Expect(entry.TS).To(BeNumerically(">", 0), line)
		}
	}, SpecTimeout(10*time.Minute))
})
