package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/cmd/dray-manager/certs"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

// clock is set by the specs.
type clock struct {
	mutex sync.Mutex
	now   time.Time
}

func (c *clock) Now() time.Time {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.now
}

func (c *clock) advance(by time.Duration) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.now = c.now.Add(by)
}

var _ = Describe("the keeper of certificates", Ordered, func() {
	const (
		namespace = "drayage-system"
		name      = "drayage-webhooks.drayage-system.svc"
	)
	var (
		cluster *env.Env
		api     client.Client
		now     *clock
		keepers []*certs.Keeper
	)

	BeforeAll(func(ctx context.Context) {
		var err error
		cluster, err = env.Start(context.Background(), env.WithCRDs())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(cluster.Stop)
		api, err = cluster.Client()
		Expect(err).NotTo(HaveOccurred())
		mutating, validating := webhooks.Configurations(admissionregistrationv1.WebhookClientConfig{
			Service: &admissionregistrationv1.ServiceReference{Namespace: namespace, Name: "drayage-webhooks"},
		}, "manager")
		Expect(api.Create(ctx, mutating)).To(Succeed())
		Expect(api.Create(ctx, validating)).To(Succeed())

		now = &clock{now: time.Now()}
		for range 3 {
			keeper, err := certs.New(certs.Config{
				Client: cluster.Config, Namespace: namespace, Dir: GinkgoT().TempDir(), ServingNames: []string{name}, Now: now.Now,
			})
			Expect(err).NotTo(HaveOccurred())
			keepers = append(keepers, keeper)
		}
	})

	ensure := func(ctx context.Context, which ...*certs.Keeper) {
		GinkgoHelper()
		for _, keeper := range which {
			Expect(keeper.Ensure(ctx)).To(Succeed())
		}
	}
	secret := func(ctx context.Context) map[string][]byte {
		GinkgoHelper()
		found := &corev1.Secret{}
		Expect(api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: certs.SecretName}, found)).To(Succeed())
		return found.Data
	}
	// bundle is what the API server trusts.
	bundle := func(ctx context.Context) []byte {
		GinkgoHelper()
		mutating := &admissionregistrationv1.MutatingWebhookConfiguration{}
		Expect(api.Get(ctx, client.ObjectKey{Name: webhooks.ConfigurationName}, mutating)).To(Succeed())
		validating := &admissionregistrationv1.ValidatingWebhookConfiguration{}
		Expect(api.Get(ctx, client.ObjectKey{Name: webhooks.ConfigurationName}, validating)).To(Succeed())
		Expect(validating.Webhooks[0].ClientConfig.CABundle).To(Equal(mutating.Webhooks[0].ClientConfig.CABundle))
		return mutating.Webhooks[0].ClientConfig.CABundle
	}
	// trusted checks every keeper's serving certificate against what the API server trusts.
	trusted := func(ctx context.Context) {
		GinkgoHelper()
		pool := x509.NewCertPool()
		Expect(pool.AppendCertsFromPEM(bundle(ctx))).To(BeTrue())
		for _, keeper := range keepers {
			pair, err := tls.LoadX509KeyPair(keeper.Path(certs.ServingFile), keeper.Path(certs.ServingFile))
			Expect(err).NotTo(HaveOccurred())
			_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: now.Now()})
			Expect(err).NotTo(HaveOccurred())
		}
	}

	It("makes one authority, however many managers start at once", func(ctx context.Context) {
		var group sync.WaitGroup
		errs := make([]error, len(keepers))
		for i, keeper := range keepers {
			group.Go(func() { errs[i] = keeper.Ensure(ctx) })
		}
		group.Wait()
		Expect(errs).To(HaveEach(BeNil()))
		Expect(secret(ctx)).To(HaveKey("tls.key"))
		trusted(ctx)

		told := &corev1.ConfigMap{}
		Expect(api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: certs.ConfigMapName}, told)).To(Succeed())
		Expect([]byte(told.Data["ca.crt"])).To(Equal(bundle(ctx)))
		pair, err := tls.LoadX509KeyPair(keepers[0].Path(certs.ClientFile), keepers[0].Path(certs.ClientFile))
		Expect(err).NotTo(HaveOccurred())
		Expect(pair.Leaf.Subject.CommonName).To(Equal("drayage:apiserver"))
	})

	It("changes nothing while nothing is due", func(ctx context.Context) {
		before := &corev1.Secret{}
		Expect(api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: certs.SecretName}, before)).To(Succeed())
		now.advance(24 * time.Hour)
		ensure(ctx, keepers...)
		after := &corev1.Secret{}
		Expect(api.Get(ctx, client.ObjectKeyFromObject(before), after)).To(Succeed())
		Expect(after.ResourceVersion).To(Equal(before.ResourceVersion))
	})

	It("repairs what somebody overwrote", func(ctx context.Context) {
		mutating := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhooks.ConfigurationName}}
		Expect(api.Patch(ctx, mutating, client.RawPatch("application/json-patch+json", []byte(`[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]`)))).To(Succeed())
		ensure(ctx, keepers[1])
		trusted(ctx)
	})

	It("rotates the authority, and trusts the new one before it signs", func(ctx context.Context) {
		first := secret(ctx)["tls.crt"]
		now.advance(500 * 24 * time.Hour) // past two thirds of two years
		ensure(ctx, keepers[0])
		Expect(secret(ctx)["tls.crt"]).To(Equal(first))
		Expect(secret(ctx)).To(HaveKey("next.crt"))
		Expect(bundle(ctx)).To(Equal(append(first, secret(ctx)["next.crt"]...)))
		ensure(ctx, keepers[1:]...)
		trusted(ctx)

		next := secret(ctx)["next.crt"]
		now.advance(2 * time.Hour)
		ensure(ctx, keepers[0])
		trusted(ctx) // the others still serve what the first authority signed
		Expect(secret(ctx)["tls.crt"]).To(Equal(next))
		Expect(secret(ctx)).NotTo(HaveKey("next.crt"))
		ensure(ctx, keepers[1:]...)
		trusted(ctx)

		By("dropping the old one when it has expired")
		now.advance(240 * 24 * time.Hour)
		ensure(ctx, keepers...)
		Expect(bundle(ctx)).To(Equal(next))
		trusted(ctx)
	})

	It("leaves the serving certificate, and who trusts it, to who makes it", func(ctx context.Context) {
		before, dir := bundle(ctx), GinkgoT().TempDir()
		keeper, err := certs.New(certs.Config{Client: cluster.Config, Namespace: namespace, Dir: dir, Now: now.Now})
		Expect(err).NotTo(HaveOccurred())
		// What cert-manager's injector would write.
		mutating := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhooks.ConfigurationName}}
		Expect(api.Patch(ctx, mutating, client.RawPatch("application/json-patch+json", []byte(`[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]`)))).To(Succeed())
		ensure(ctx, keeper)
		Expect(api.Get(ctx, client.ObjectKeyFromObject(mutating), mutating)).To(Succeed())
		Expect(mutating.Webhooks[0].ClientConfig.CABundle).To(BeEmpty())
		Expect(keeper.Path(certs.ServingFile)).NotTo(BeAnExistingFile())
		Expect(keeper.Path(certs.ClientFile)).To(BeAnExistingFile())
		ensure(ctx, keepers...)
		Expect(bundle(ctx)).To(Equal(before))
	})

	It("starts anew after all managers were away for too long", func(ctx context.Context) {
		now.advance(5 * 365 * 24 * time.Hour)
		ensure(ctx, keepers...)
		trusted(ctx)
	})

	It("names the Secret that it cannot read", func(ctx context.Context) {
		found := &corev1.Secret{}
		Expect(api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: certs.SecretName}, found)).To(Succeed())
		found.Data["tls.key"] = []byte("no key")
		Expect(api.Update(ctx, found)).To(Succeed())
		Expect(keepers[0].Ensure(ctx)).To(MatchError(And(ContainSubstring("drayage-system/drayage-ca"), ContainSubstring("delete the Secret"))))
		Expect(api.Delete(ctx, found)).To(Succeed())
		ensure(ctx, keepers...)
		trusted(ctx)
	})
})
