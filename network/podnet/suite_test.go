package podnet_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestPodNet(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Pod network")
}
