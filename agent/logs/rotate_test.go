package logs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"

	"drayage.dev/agent"
	"drayage.dev/agent/logs"
)

func TestLogs(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "logs")
}

// writer is a runtime with one container.
type writer struct {
	path     string
	reopened int
	refuses  bool
}

func (w *writer) List(context.Context, ...types.UID) ([]agent.PodState, error) {
	return []agent.PodState{{Containers: []agent.Container{{ID: "id", Phase: agent.ContainerRunning, LogPath: w.path}}}}, nil
}

func (w *writer) ReopenLog(context.Context, string) error {
	if w.refuses {
		return errors.New("refused")
	}
	w.reopened++
	return os.WriteFile(w.path, nil, 0o644)
}

var _ = Describe("rotation", func() {
	var (
		w *writer
		r logs.Rotator
	)
	BeforeEach(func() {
		w = &writer{path: filepath.Join(GinkgoT().TempDir(), "0.log")}
		r = logs.Rotator{Runtime: w, MaxBytes: 10, MaxFiles: 3}
	})
	fill := func(text string) {
		GinkgoHelper()
		Expect(os.WriteFile(w.path, []byte(text), 0o644)).To(Succeed())
	}

	It("leaves small logs alone", func(ctx SpecContext) {
		fill("small")
		Expect(r.Rotate(ctx)).To(Succeed())
		Expect(w.reopened).To(BeZero())
	})

	It("keeps the newest files and no more than it may", func(ctx SpecContext) {
		for _, letter := range []string{"a", "b", "c", "d"} {
			fill(strings.Repeat(letter, 20))
			Expect(r.Rotate(ctx)).To(Succeed())
		}
		files, err := filepath.Glob(w.path + "*")
		Expect(err).NotTo(HaveOccurred())
		Expect(files).To(HaveLen(3))
		Expect(os.ReadFile(files[1])).To(HavePrefix("c"))
		Expect(os.ReadFile(files[2])).To(HavePrefix("d"))
	})

	It("puts the log back when the runtime does not begin a new one", func(ctx SpecContext) {
		fill(strings.Repeat("a", 20))
		w.refuses = true
		Expect(r.Rotate(ctx)).To(MatchError(ContainSubstring("refused")))
		Expect(os.ReadFile(w.path)).To(HaveLen(20))
	})

	It("begins the log that a crash has left renamed", func(ctx SpecContext) {
		Expect(r.Rotate(ctx)).To(Succeed())
		Expect(w.reopened).To(Equal(1))
	})
})
