package clientcerts_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestClientCerts(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controlplane/clientcerts")
}
