package containerd

import (
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestContainerd(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "agent/containerd")
}

var _ = Describe("the registries that the machine's administrator has configured", func() {
	It("hold where Drayage has none of the name, and go when they are gone", func() {
		own, machine := GinkgoT().TempDir(), GinkgoT().TempDir()
		registry := func(dir, host, text string) {
			GinkgoHelper()
			Expect(os.MkdirAll(filepath.Join(dir, host), 0o755)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(text), 0o644)).To(Succeed())
		}
		seen := func(host string) string {
			text, _ := os.ReadFile(filepath.Join(own, host, "hosts.toml"))
			return string(text)
		}
		registry(own, "both", "ours")
		registry(machine, "both", "theirs")
		registry(machine, "docker.io", "a mirror")
		for range 2 {
			Expect(linkRegistries(own, machine)).To(Succeed())
			Expect(seen("both")).To(Equal("ours"))
			Expect(seen("docker.io")).To(Equal("a mirror"))
		}
		Expect(os.RemoveAll(filepath.Join(machine, "docker.io"))).To(Succeed())
		Expect(linkRegistries(own, machine)).To(Succeed())
		Expect(os.ReadDir(own)).To(HaveLen(1))
		Expect(linkRegistries(own, filepath.Join(machine, "none"))).To(Succeed())
	})
})
