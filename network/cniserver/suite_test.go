package cniserver_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestCNIServer(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Network plugin")
}
