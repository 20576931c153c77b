package agentjoin_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestAgentJoin(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "cmd/dray/agentjoin")
}
