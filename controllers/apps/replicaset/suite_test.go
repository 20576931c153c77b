package replicaset

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestReplicaSet(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controllers/apps/replicaset")
}
