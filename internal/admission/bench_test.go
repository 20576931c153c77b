package admission_test

import (
	"context"
	"testing"

	"drayage.dev/internal/admission"
)

func BenchmarkPrepare(b *testing.B) {
	lookup := newLookup()
	for b.Loop() {
		if _, errs := admission.Prepare(context.Background(), newPod(), lookup); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}
