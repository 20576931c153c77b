package architecture_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

const module = "drayage.dev/"

// layer orders the rooms: a package imports packages of a lower layer only. Rooms of layer 2 never import
// each other; within one room anything goes.
var layer = map[string]int{
	"apis":     0,
	"internal": 1, "config": 1,
	"controllers": 2, "webhooks": 2, "apiserver": 2, "scheduler": 2, "agent": 2, "network": 2, "controlplane": 2,
	"cmd":  3,
	"test": 4,
}

type listed struct {
	ImportPath string
	Imports    []string
}

func TestImportsRunOneWay(t *testing.T) {
	g := NewWithT(t)
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	g.Expect(err).NotTo(HaveOccurred())

	packages := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; packages++ {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			g.Expect(err).NotTo(HaveOccurred())
		}
		for _, imported := range p.Imports {
			if problem := illegal(p.ImportPath, imported); problem != "" {
				t.Error(problem)
			}
		}
	}
	g.Expect(packages).To(BeNumerically(">", 5), "go list must have seen the house")
}

func TestTheRuleBites(t *testing.T) {
	g := NewWithT(t)
	g.Expect(illegal(module+"agent/volumes", module+"network/proxy")).NotTo(BeEmpty())
	g.Expect(illegal(module+"internal/admission", module+"webhooks")).NotTo(BeEmpty())
	g.Expect(illegal(module+"controllers/core/node", module+"cmd/dray")).NotTo(BeEmpty())
	g.Expect(illegal(module+"agent", module+"elsewhere")).NotTo(BeEmpty())
	g.Expect(illegal(module+"cmd/dray", module+"agent/volumes")).To(BeEmpty())
	g.Expect(illegal(module+"agent", module+"agent/volumes")).To(BeEmpty())
}

// illegal says what is wrong with an import, or nothing.
func illegal(importer, imported string) string {
	if !strings.HasPrefix(imported, module) {
		return ""
	}
	from, to := room(importer), room(imported)
	fromLayer, known := layer[from]
	if !known {
		return importer + " stands in no room of the house: add it to the design first"
	}
	toLayer, known := layer[to]
	if !known {
		return importer + " imports " + imported + ", which stands in no room of the house"
	}
	if from != to && toLayer >= fromLayer {
		return importer + " imports " + imported + ": imports run apis <- internal <- rooms <- cmd <- test, and rooms never import each other"
	}
	return ""
}

func room(importPath string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(importPath, module), "/")
	return name
}
