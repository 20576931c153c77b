package podobjects

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestPodObjects(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Broker of pods' objects")
}
