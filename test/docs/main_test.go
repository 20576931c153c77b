package main

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"drayage.dev/config"
)

func TestPagesAreCurrent(t *testing.T) {
	NewWithT(t).Expect(run("../../docs/kinds", true)).To(Succeed())
}

func TestAPageOutOfDateIsFound(t *testing.T) {
	g := NewWithT(t)
	crds, err := config.CRDs()
	g.Expect(err).NotTo(HaveOccurred())
	page := "# Pod\n" + begin + "old\n" + end + "more\n"
	fresh, err := replace(page, generated(crds[0]))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(fresh).NotTo(Equal(page))
	g.Expect(strings.HasSuffix(fresh, "more\n")).To(BeTrue())
	_, err = replace("# no markers", "")
	g.Expect(err).To(HaveOccurred())
}
