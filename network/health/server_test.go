package health_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"

	"drayage.dev/network/health"
)

type said struct {
	code   int
	weight string
	kind   string
	sniff  string
	body   string
}

func ask(port uint16) (said, error) {
	response, err := (&http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return said{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	h := response.Header
	return said{response.StatusCode, h.Get("X-Load-Balancing-Endpoint-Weight"), h.Get("Content-Type"), h.Get("X-Content-Type-Options"), string(body)}, err
}

// free is a port that nobody has at the moment.
func free() uint16 {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer listener.Close()
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

var _ = Describe("The server", func() {
	web := types.NamespacedName{Namespace: "shop", Name: "web"}

	start := func(config health.Config) *health.Server {
		server := health.New(config)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- server.Run(ctx) }()
		DeferCleanup(func() {
			cancel()
			Expect(<-done).To(Succeed())
		})
		return server
	}

	It("says what upstream says, header for header and byte for byte", func() {
		nodePorts := proxyutil.NewNodePortAddresses(corev1.IPv4Protocol, nil)
		healthy := healthcheck.NewProxyHealthServer("", time.Minute, nil)
		healthy.Updated(corev1.IPv4Protocol)
		upstream := healthcheck.NewServiceHealthServer("n1", nil, nodePorts, healthy, corev1.IPv4Protocol)
		theirs, ours := free(), free()
		server := start(health.Config{})
		Expect(upstream.SyncServices(map[types.NamespacedName]uint16{web: theirs})).To(Succeed())
		DeferCleanup(func() { Expect(upstream.SyncServices(nil)).To(Succeed()) })
		for _, ready := range []int{0, 1, 7} {
			Expect(upstream.SyncEndpoints(map[types.NamespacedName]int{web: ready})).To(Succeed())
			server.Set(map[types.NamespacedName]health.Answer{web: {Port: ours, Ready: ready}})
			expected, err := ask(theirs)
			Expect(err).NotTo(HaveOccurred())
			Eventually(func() (said, error) { return ask(ours) }).Should(Equal(expected))
		}
	})

	It("leaves a node out whose rules do not follow", func() {
		port := free()
		server := start(health.Config{})
		server.Set(map[types.NamespacedName]health.Answer{web: {Port: port, Ready: 2, Stuck: true}})
		var got said
		Eventually(func() (err error) { got, err = ask(port); return err }).Should(Succeed())
		Expect(got.code).To(Equal(http.StatusServiceUnavailable))
		Expect(got.body).To(MatchJSON(`{"service":{"namespace":"shop","name":"web"},"localEndpoints":2,"serviceProxyHealthy":false}`))
	})

	It("closes the port of a service that is gone or has another", func() {
		first, second := free(), free()
		server := start(health.Config{})
		server.Set(map[types.NamespacedName]health.Answer{web: {Port: first, Ready: 1}})
		Eventually(func() error { _, err := ask(first); return err }).Should(Succeed())
		server.Set(map[types.NamespacedName]health.Answer{web: {Port: second, Ready: 1}})
		Eventually(func() error { _, err := ask(second); return err }).Should(Succeed())
		Eventually(func() error { _, err := ask(first); return err }).ShouldNot(Succeed())
		server.Set(nil)
		Eventually(func() error { _, err := ask(second); return err }).ShouldNot(Succeed())
	})

	It("goes on with the others while one port is somebody else's, and takes it later", func() {
		var taken atomic.Bool
		taken.Store(true)
		mine, other := free(), free()
		server := start(health.Config{Listen: func(port uint16) (net.Listener, error) {
			if port == other && taken.Load() {
				return nil, errors.New("address already in use")
			}
			return net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(int(port)))
		}})
		server.Set(map[types.NamespacedName]health.Answer{
			web: {Port: mine, Ready: 1}, {Namespace: "shop", Name: "other"}: {Port: other, Ready: 1},
		})
		Eventually(func() error { _, err := ask(mine); return err }).Should(Succeed())
		taken.Store(false)
		Eventually(func() error { _, err := ask(other); return err }).Should(Succeed())
	})
})
