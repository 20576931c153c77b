package app_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"

	"drayage.dev/cmd/dray-manager/app"
	"drayage.dev/test/env"
)

var _ = Describe("a manager whose API server answers no lists", func() {
	It("stops all the same", func(ctx context.Context) {
		e, err := env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(e.Stop)
		transport, err := rest.TransportFor(e.Config)
		Expect(err).NotTo(HaveOccurred())
		target, err := url.Parse(e.Config.Host)
		Expect(err).NotTo(HaveOccurred())
		through := httputil.NewSingleHostReverseProxy(target)
		through.Transport = transport
		asked := make(chan struct{}, 100)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/core.drayage.dev/v1/pods") {
				select {
				case asked <- struct{}{}:
				default:
				}
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			through.ServeHTTP(w, r)
		}))
		DeferCleanup(server.Close)

		runCtx, stop := context.WithCancel(ctx)
		cfg := app.DefaultConfig()
		cfg.RESTConfig = &rest.Config{Host: server.URL}
		done := make(chan error, 1)
		go func() { done <- app.Run(runCtx, cfg) }()
		Eventually(asked).Should(Receive())
		stop()
		Eventually(done, 2*time.Minute).Should(Receive(BeNil()))
	})
})
