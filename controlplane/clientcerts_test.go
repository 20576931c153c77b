package controlplane_test

import (
	"context"
	"net/http"
	"os"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics/legacyregistry"

	"drayage.dev/controlplane/pki"
)

var _ = Describe("a client certificate", func() {
	// verifications is how often one was verified in this process.
	verifications := func() uint64 {
		GinkgoHelper()
		families, err := legacyregistry.DefaultGatherer.Gather()
		Expect(err).NotTo(HaveOccurred())
		for _, family := range families {
			if family.GetName() == "apiserver_client_certificate_expiration_seconds" {
				return family.GetMetric()[0].GetHistogram().GetSampleCount()
			}
		}
		return 0
	}

	It("is verified once for many requests, and refused once its authority is replaced", func(ctx context.Context) {
		e, _ := start(ctx)
		config, err := e.As("ann", "people")
		Expect(err).NotTo(HaveOccurred())
		httpClient, err := rest.HTTPClientFor(config)
		Expect(err).NotTo(HaveOccurred())
		status := func() int {
			response, err := httpClient.Get(config.Host + "/apis")
			Expect(err).NotTo(HaveOccurred())
			defer response.Body.Close()
			return response.StatusCode
		}
		Expect(status()).To(Equal(http.StatusOK))
		before := verifications()
		Expect(before).To(BeNumerically(">", 0))
		for range 40 {
			Expect(status()).To(Equal(http.StatusOK))
		}
		// One is remembered for ten seconds, and others connect as well.
		Expect(verifications() - before).To(BeNumerically("<", 30))

		other, err := pki.New("other", time.Hour, time.Now())
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(e.Info.CAFile, other.CertPEM(), 0o600)).To(Succeed())
		Eventually(status, 2*time.Minute, 100*time.Millisecond).Should(Equal(http.StatusUnauthorized))
	})
})
