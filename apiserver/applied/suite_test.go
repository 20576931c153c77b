package applied

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestApplied(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Applied revisions")
}
