package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// leftOut are the files of upstream's test/e2e/network without a table in docs/upstream-service-tests.md, which says why.
var leftOut = []string{
	"apiserver.go", "dns_common.go", "doc.go", "fixture.go", "util.go", "util_iperf.go", // no cases
	"dual_stack.go", "topology_hints.go", "traffic_distribution.go",
	"endpoints.go", "endpointslicemirroring.go",
	"ingress.go", "ingressclass.go", "network_policy.go", "networking_perf.go",
}

// specs are the functions of Ginkgo, and those of upstream that wrap them, whose first argument is the name of a case.
var specs = regexp.MustCompile(`^(ConformanceIt|It|Entry|DescribeTable)$`)

// casesOf returns the names of the cases in Go files, in order.
func casesOf(t *testing.T, files ...string) (names []string) {
	g := NewWithT(t)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		g.Expect(err).NotTo(HaveOccurred())
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			name := ""
			switch function := call.Fun.(type) {
			case *ast.Ident:
				name = function.Name
			case *ast.SelectorExpr:
				name = function.Sel.Name
			}
			if text, ok := call.Args[0].(*ast.BasicLit); ok && text.Kind == token.STRING && specs.MatchString(name) {
				value, err := strconv.Unquote(text.Value)
				g.Expect(err).NotTo(HaveOccurred())
				names = append(names, value)
			}
			return true
		})
	}
	return names
}

func TestUpstreamsServiceCasesHaveTheirSpecs(t *testing.T) {
	g := NewWithT(t)
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	g.Expect(err).NotTo(HaveOccurred())
	upstream := filepath.Join(strings.TrimSpace(string(out)), "test", "e2e")
	page, err := os.ReadFile("../../docs/upstream-service-tests.md")
	g.Expect(err).NotTo(HaveOccurred())

	ours := map[string][]string{}
	reference := regexp.MustCompile("`([a-z0-9/]+)` ([^;|]+)")
	told := map[string][]string{}
	file := ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if heading, ok := strings.CutPrefix(line, "## `"); ok {
			file = strings.TrimSuffix(heading, "`")
			continue
		}
		cells := strings.Split(line, " | ")
		if file == "" || len(cells) != 2 || cells[0] == "| upstream" || cells[0] == "| ---" {
			continue
		}
		told[file] = append(told[file], strings.TrimPrefix(cells[0], "| "))
		text, _, _ := strings.Cut(strings.TrimSuffix(cells[1], " |"), " (")
		if !strings.HasPrefix(text, "`") {
			g.Expect(text).To(MatchRegexp("^(not offered: |not tried|refused by name: |of one cloud)"), "%s: %s", file, cells[0])
			continue
		}
		for _, match := range reference.FindAllStringSubmatch(text, -1) {
			directory, spec := match[1], strings.TrimSpace(match[2])
			if ours[directory] == nil {
				files, err := filepath.Glob(filepath.Join("../..", directory, "*_test.go"))
				g.Expect(err).NotTo(HaveOccurred())
				ours[directory] = append(casesOf(t, files...), "")
			}
			g.Expect(ours[directory]).To(ContainElement(spec), "%s: %s", file, cells[0])
		}
	}
	for file, cases := range told {
		g.Expect(casesOf(t, filepath.Join(upstream, file))).To(Equal(cases), file)
	}
	all, err := filepath.Glob(filepath.Join(upstream, "network", "*.go"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(len(all)).To(BeNumerically(">", 20))
	for _, path := range all {
		if name := filepath.Base(path); !slices.Contains(leftOut, name) {
			g.Expect(told).To(HaveKey("network/" + name))
		}
	}
}
