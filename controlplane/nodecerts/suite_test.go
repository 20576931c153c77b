package nodecerts

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestNodeCerts(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controlplane/nodecerts")
}
