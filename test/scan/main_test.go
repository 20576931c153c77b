package main

import (
	"bytes"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestScan(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "test/scan")
}

var _ = Describe("vulnerabilities", func() {
	const found = `{"config":{"db":"https://vuln.go.dev","db_last_modified":"2026-01-01T00:00:00Z"}}
{"osv":{"id":"GO-2026-0001","summary":"it crashes"}}
{"finding":{"osv":"GO-2026-0001","fixed_version":"v1.2.4","trace":[{"module":"example.org/m","version":"v1.2.3"}]}}
{"finding":{"osv":"GO-2026-0002","trace":[{"module":"example.org/n","version":"v1.0.0","package":"example.org/n"}]}}`
	const called = found + `
{"finding":{"osv":"GO-2026-0001","fixed_version":"v1.2.4","trace":[{"module":"example.org/m","version":"v1.2.3","package":"example.org/m","function":"Crash","receiver":"*T"}]}}`
	judge := func(input, known string) (string, error) {
		var out bytes.Buffer
		err := vulnerabilities(strings.NewReader(input), known, &out)
		return out.String(), err
	}

	It("fail when they are called", func() {
		_, err := judge(called, "")
		Expect(err).To(MatchError(And(ContainSubstring("GO-2026-0001: it crashes: example.org/m v1.2.3 calls example.org/m.*T.Crash"), ContainSubstring(`"v1.2.4"`))))
	})

	It("do not when nothing calls them, or when they are left for a reason", func() {
		_, err := judge(found, "")
		Expect(err).NotTo(HaveOccurred())
		out, err := judge(called, "# of others\nGO-2026-0001 upstream's, which pins it\nGO-2020-0001 long gone")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(And(ContainSubstring("GO-2026-0001 is left: upstream's, which pins it"), ContainSubstring("GO-2020-0001 is excused and not found")))
		_, err = judge(called, "GO-2026-0001")
		Expect(err).To(MatchError(ContainSubstring("has no reason")))
	})

	It("are not taken for absent when govulncheck has not run", func() {
		_, err := judge("", "")
		Expect(err).To(MatchError(ContainSubstring("has not run")))
	})
})
