package withdrawal_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestWithdrawal(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Withdrawal")
}
