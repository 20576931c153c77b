package diagnostics

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
)

func TestDiagnostics(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "internal/diagnostics")
}

var _ = Describe("a process", func() {
	free := func() string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer listener.Close()
		return listener.Addr().String()
	}
	get := func(address, path string) (int, string) {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(body)
	}
	run := func(ctx context.Context, config Config) {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- Run(ctx, config) }()
		DeferCleanup(func() { cancel(); Eventually(done).Should(Receive(BeNil())) })
	}

	It("tells whether it is ready, apart from whether it lives", func(ctx context.Context) {
		address, ready := free(), errors.New("waiting for the moon")
		run(ctx, Config{HealthAddress: address, Ready: func(context.Context) error { return ready }})
		Eventually(func() int { code, _ := get(address, "/healthz"); return code }).Should(Equal(http.StatusOK))
		code, body := get(address, "/readyz")
		Expect(code).To(Equal(http.StatusServiceUnavailable))
		Expect(body).To(ContainSubstring("waiting for the moon"))
		ready = nil
		code, _ = get(address, "/readyz")
		Expect(code).To(Equal(http.StatusOK))
		code, _ = get(address, "/metrics")
		Expect(code).To(Equal(http.StatusNotFound), "metrics have an address of their own")
	})

	It("shows no profiles to just anybody", func(ctx context.Context) {
		address := free()
		run(ctx, Config{HealthAddress: address, MetricsAddress: address})
		Eventually(func() int { code, _ := get(address, "/metrics"); return code }).Should(Equal(http.StatusOK))
		code, _ := get(address, "/debug/pprof/")
		Expect(code).To(Equal(http.StatusNotFound))
	})

	It("shows metrics and profiles over TLS to who may read them, by the API server's word", func(ctx context.Context) {
		reviews := http.NewServeMux()
		answer := func(w http.ResponseWriter, object any) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(object)
		}
		reviews.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", func(w http.ResponseWriter, r *http.Request) {
			var review authenticationv1.TokenReview
			_ = json.NewDecoder(r.Body).Decode(&review)
			review.Status.Authenticated = review.Spec.Token == "reader" || review.Spec.Token == "stranger"
			review.Status.User.Username = review.Spec.Token
			answer(w, review)
		})
		reviews.HandleFunc("POST /apis/authorization.k8s.io/v1/subjectaccessreviews", func(w http.ResponseWriter, r *http.Request) {
			var review authorizationv1.SubjectAccessReview
			_ = json.NewDecoder(r.Body).Decode(&review)
			asked := review.Spec.NonResourceAttributes
			review.Status.Allowed = review.Spec.User == "reader" && asked != nil && asked.Verb == "get" && asked.Path == "/metrics"
			answer(w, review)
		})
		api := httptest.NewServer(reviews)
		DeferCleanup(api.Close)
		address := free()
		// Protocol buffers are what a client of a clientset speaks unless it is told otherwise.
		run(ctx, Config{SecureAddress: address, RESTConfig: &rest.Config{Host: api.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}})
		trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		read := func(path, token string) func() int {
			return func() int {
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+path, nil)
				Expect(err).NotTo(HaveOccurred())
				if token != "" {
					request.Header.Set("Authorization", "Bearer "+token)
				}
				response, err := trusting.Do(request)
				if err != nil {
					return 0
				}
				defer response.Body.Close()
				return response.StatusCode
			}
		}
		Eventually(read("/healthz", "")).Should(Equal(http.StatusOK))
		Expect(read("/metrics", "reader")()).To(Equal(http.StatusOK))
		for path, token := range map[string]string{"/metrics": "", "/debug/pprof/": "", "/debug/pprof/heap": "", "/debug/pprof/cmdline": "unknown"} {
			Expect(read(path, token)()).To(Equal(http.StatusUnauthorized), path)
		}
		Expect(read("/metrics", "unknown")()).To(Equal(http.StatusUnauthorized))
		Expect(read("/metrics", "stranger")()).To(Equal(http.StatusForbidden))
		Expect(read("/debug/pprof/heap", "reader")()).To(Equal(http.StatusForbidden), "each URL is asked for by itself")
	})

	It("takes a port that was somebody else's as soon as it is free", func(ctx context.Context) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		address := listener.Addr().String()
		run(ctx, Config{HealthAddress: address})
		time.AfterFunc(100*time.Millisecond, func() { _ = listener.Close() })
		Eventually(func() int { code, _ := get(address, "/healthz"); return code }).Should(Equal(http.StatusOK))
	})
})

var _ = Describe("metrics", func() {
	It("are those of both registries, each once", func() {
		counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "spec_total", Help: "Of the spec."})
		Expect(ctrlmetrics.Registry.Register(counter)).To(Succeed())
		DeferCleanup(func() { ctrlmetrics.Registry.Unregister(counter) })
		families, err := gather()
		Expect(err).NotTo(HaveOccurred())
		count := map[string]int{}
		for _, family := range families {
			count[family.GetName()]++
		}
		for _, name := range []string{"spec_total", "go_goroutines", "process_resident_memory_bytes", "kubernetes_build_info"} {
			Expect(count).To(HaveKeyWithValue(name, 1))
		}
	})

	It("of one name keep what both registries say under other labels", func() {
		family := func(kind dto.MetricType, queue string) *dto.MetricFamily {
			name, label := "workqueue_depth", "name"
			return &dto.MetricFamily{Name: &name, Type: &kind, Metric: []*dto.Metric{{Label: []*dto.LabelPair{{Name: &label, Value: &queue}}}}}
		}
		gauge, counter := dto.MetricType_GAUGE, dto.MetricType_COUNTER
		merged := merge([]*dto.MetricFamily{family(gauge, "a")}, []*dto.MetricFamily{family(gauge, "a"), family(gauge, "b"), family(counter, "c")})
		Expect(merged).To(HaveLen(1))
		Expect(merged[0].Metric).To(HaveLen(2))
	})
})

var _ = Describe("the log's flags", func() {
	It("are passed on to processes that log alike, as far as they were set", func() {
		var logs Logging
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		logs.AddFlags(flags)
		Expect(logs.Arguments()).To(BeEmpty())
		Expect(flags.Parse([]string{"--logging-format=json", "-v=2"})).To(Succeed())
		Expect(logs.Arguments()).To(ConsistOf("--logging-format=json", "--v=2"))
		Expect(logs.Apply()).To(Succeed())
	})
})
