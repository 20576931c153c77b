package controlplane_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	ddiscoveryv1 "drayage.dev/apis/discovery/v1"
	"drayage.dev/controlplane"
	"drayage.dev/test/env"
)

// startEtcd starts an etcd outside of any control plane and returns its endpoint.
func startEtcd() string {
	GinkgoHelper()
	dir, err := os.MkdirTemp("", "etcd")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	config := embed.NewConfig()
	config.Dir, config.UnsafeNoFsync, config.TickMs, config.ElectionMs = dir, true, 10, 100
	config.ListenClientUrls, config.ListenPeerUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(dir, "sock")}}, nil
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(config)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(etcd.Close)
	Eventually(etcd.Server.ReadyNotify()).Should(BeClosed())
	return config.ListenClientUrls[0].String()
}

var _ = Describe("several servers on one etcd", func() {
	It("serve the same objects and take over each other's housekeeping", func(ctx context.Context) {
		endpoint := startEtcd()
		shared := env.WithConfig(func(c *controlplane.Config) { c.EtcdServers, c.AdvertiseAddress = []string{endpoint}, "192.0.2.9" })
		first, c1 := start(ctx, shared)

		dir, err := os.MkdirTemp("", "dray")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(os.RemoveAll, dir)
		Expect(os.MkdirAll(filepath.Join(dir, "server/pki"), 0o700)).To(Succeed())
		for _, name := range []string{"ca.crt", "ca.key", "sa.key"} {
			data, err := os.ReadFile(filepath.Join(first.DataDir, "server/pki", name))
			Expect(err).NotTo(HaveOccurred())
			Expect(os.WriteFile(filepath.Join(dir, "server/pki", name), data, 0o600)).To(Succeed())
		}
		_, c2 := start(ctx, shared, env.WithDataDir(dir))

		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: podSpec()}
		Expect(c1.Create(ctx, pod)).To(Succeed())
		Expect(c2.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		Eventually(func(g Gomega) {
			slices := &ddiscoveryv1.EndpointSliceList{}
			g.Expect(c2.List(ctx, slices, client.InNamespace("default"))).To(Succeed())
			g.Expect(slices.Items).To(HaveLen(2), "an endpoint slice per server")
		}).Should(Succeed())

		Expect(first.Stop()).To(Succeed())
		Expect(c2.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "later"}})).To(Succeed())
		Eventually(func() error {
			return c2.Get(ctx, client.ObjectKey{Namespace: "later", Name: "default"}, &corev1.ServiceAccount{})
		}, 2*time.Minute).Should(Succeed())
	})
})
