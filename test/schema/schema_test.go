package schema_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"drayage.dev/test/schema"
)

func TestSchema(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "test/schema")
}

var _ = Describe("rendered manifests", func() {
	It("are decoded, comments and empty documents aside", func() {
		objects, err := schema.Decode(`# nothing
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
---
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: b}
spec: {containers: [{name: c, image: d}]}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: e}
`)
		Expect(err).NotTo(HaveOccurred())
		Expect(objects).To(HaveLen(3))
	})

	DescribeTable("are refused for what no API server knows", func(document, message string) {
		_, err := schema.Decode(document)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("a field", "apiVersion: apps/v1\nkind: Deployment\nspec: {replica: 3}\n", `unknown field "spec.replica"`),
		Entry("a field of ours", "apiVersion: core.drayage.dev/v1\nkind: Pod\nspec: {container: []}\n", `unknown field "spec.container"`),
		Entry("a field twice", "apiVersion: v1\nkind: ConfigMap\ndata: {a: b, a: c}\n", `"a" already set`),
		Entry("a kind", "apiVersion: v1\nkind: ConfigMop\n", `no kind "ConfigMop"`),
	)
})
