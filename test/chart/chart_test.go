package main

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestChart(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "test/chart")
}

var _ = Describe("the generated parts of charts/drayage", func() {
	It("are what the sources say", func() {
		Expect(run("../..", true)).To(Succeed())
	})

	It("name a service account for every subject", func() {
		_, err := translate([]any{map[string]any{"kind": "User", "name": "somebody"}})
		Expect(err).To(MatchError(ContainSubstring("User somebody")))
	})
})
