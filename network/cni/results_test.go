package cni_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"

	"drayage.dev/network/cni"
)

func TestForgetResultsLeavesWhatIsNotTheNodes(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	cache := func(name, socket, sandbox string) {
		config, err := cni.NetworkConfig(socket)
		g.Expect(err).NotTo(HaveOccurred())
		content, err := json.Marshal(map[string]any{"kind": "cniCacheV1", "containerId": sandbox, "config": config})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(os.WriteFile(filepath.Join(dir, name), content, 0o600)).To(Succeed())
	}
	cache("drayage-dead-eth0", "/run/drayage/cni.sock", "dead")
	cache("drayage-live-eth0", "/run/drayage/cni.sock", "live")
	cache("drayage-other-eth0", "/run/other/cni.sock", "other")
	cache("bridge-x-eth0", "/run/drayage/cni.sock", "x")
	g.Expect(os.WriteFile(filepath.Join(dir, "drayage-broken"), []byte("{"), 0o600)).To(Succeed())

	g.Expect(cni.ForgetResults(dir, "/run/drayage/cni.sock", func(sandbox string) bool { return sandbox == "live" })).To(Succeed())

	left, err := filepath.Glob(filepath.Join(dir, "*"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(ConsistOf(
		filepath.Join(dir, "bridge-x-eth0"), filepath.Join(dir, "drayage-broken"),
		filepath.Join(dir, "drayage-live-eth0"), filepath.Join(dir, "drayage-other-eth0")))
}
