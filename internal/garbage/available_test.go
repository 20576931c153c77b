package garbage

import (
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("the memory that a process may use", func() {
	file := func(text string) string {
		GinkgoHelper()
		path := filepath.Join(GinkgoT().TempDir(), "limit")
		Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
		return path
	}

	It("is the machine's without a limit", func() {
		machine := available(nil)
		Expect(machine).To(BeNumerically(">", 64<<20))
		Expect(available([]string{"/none", file("max\n")})).To(Equal(machine), "version 2")
		Expect(available([]string{"/none", file("9223372036854771712\n")})).To(Equal(machine), "version 1")
	})

	It("is its container's", func() {
		Expect(available([]string{file("16777216\n"), "/none"})).To(BeEquivalentTo(16 << 20))
	})
})
