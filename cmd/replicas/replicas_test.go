package replicas_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/cmd/replicas"
	"drayage.dev/test/env"
)

func TestReplicas(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "cmd/replicas")
}

var _ = Describe("Follow", func() {
	It("finds the others by their endpoints, and waits for an API server that does not serve yet", func(ctx context.Context) {
		e, err := env.Start(ctx)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(e.Stop)
		admin, err := e.Client()
		Expect(err).NotTo(HaveOccurred())
		transport, err := rest.TransportFor(e.Config)
		Expect(err).NotTo(HaveOccurred())
		target, err := url.Parse(e.Config.Host)
		Expect(err).NotTo(HaveOccurred())
		through := httputil.NewSingleHostReverseProxy(target)
		through.Transport = transport
		var serves, asked atomic.Bool
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Store(true)
			if !serves.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			through.ServeHTTP(w, r)
		}))
		DeferCleanup(server.Close)

		ctx, cancel := context.WithCancel(ctx)
		DeferCleanup(cancel)
		var found atomic.Pointer[map[string]*rest.Config]
		found.Store(&map[string]*rest.Config{})
		self := netip.MustParseAddrPort("192.0.2.1:6443")
		Expect(replicas.Follow(ctx, replicas.Config{
			Client: &rest.Config{Host: server.URL}, Slice: &ddiscoveryv1.EndpointSlice{}, Namespace: "default", Service: "api",
			Self:  func(address netip.AddrPort) bool { return address == self },
			Reach: func(address netip.AddrPort) *rest.Config { return &rest.Config{Host: replicas.Host(address)} },
		}, func(replicas map[string]*rest.Config) { found.Store(&replicas) })).To(Succeed())
		hosts := func() []string {
			hosts := []string{}
			for _, config := range *found.Load() {
				hosts = append(hosts, config.Host)
			}
			return hosts
		}
		slice := func(name, service, address string) *ddiscoveryv1.EndpointSlice {
			s := &ddiscoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service},
			}}
			s.AddressType = discoveryv1.AddressTypeIPv4
			s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{address}}}
			s.Ports = []discoveryv1.EndpointPort{{Port: ptr.To[int32](6443)}}
			Expect(admin.Create(ctx, s)).To(Succeed())
			return s
		}
		slice("self", "api", "192.0.2.1")
		second := slice("second", "api", "192.0.2.2")
		slice("other", "web", "192.0.2.9")
		Eventually(asked.Load).Should(BeTrue())
		serves.Store(true)
		Eventually(hosts).Should(ConsistOf("https://192.0.2.2:6443"))
		slice("third", "api", "192.0.2.3")
		Eventually(hosts).Should(ConsistOf("https://192.0.2.2:6443", "https://192.0.2.3:6443"))
		Expect(admin.Delete(ctx, second)).To(Succeed())
		Eventually(hosts).Should(ConsistOf("https://192.0.2.3:6443"))
	})
})
