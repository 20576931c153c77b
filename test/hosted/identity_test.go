//go:build cluster

package hosted_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controlplane/join"
	"drayage.dev/internal/scheme"
)

// specsOfIdentity try what the credential can do that an agent keeps on its machine. The whole table, against the
// embedded API server, is package security's.
func specsOfIdentity() {
	It("confines a credential that was stolen from a machine", func(ctx SpecContext) {
		m, other := h.machines[0], h.machines[1]
		thief, config := m.thief()
		review := &authenticationv1.SelfSubjectReview{}
		Expect(thief.Create(ctx, review)).To(Succeed())
		Expect(review.Status.UserInfo.Username).To(Equal("system:serviceaccount:" + namespace + ":drayage-agent"))

		By("it gets a serving certificate of its node, from the authority that managers trust")
		csr := serveAs(ctx, thief, "own", m.name)
		Eventually(func() []byte {
			Expect(h.api.Get(ctx, client.ObjectKeyFromObject(csr), csr)).To(Succeed())
			return csr.Status.Certificate
		}).ShouldNot(BeEmpty())
		told := &corev1.ConfigMap{}
		Expect(h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "drayage-ca"}, told)).To(Succeed())
		pool, err := certutil.NewPoolFromBytes([]byte(told.Data["ca.crt"]))
		Expect(err).NotTo(HaveOccurred())
		certificates, err := certutil.ParseCertsPEM(csr.Status.Certificate)
		Expect(err).NotTo(HaveOccurred())
		_, err = certificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: m.name})
		Expect(err).NotTo(HaveOccurred())

		By("it gets none of another node, nor of a manager")
		for name, of := range map[string]string{"foreign": other.name, "manager": "drayage-webhooks." + namespace + ".svc"} {
			csr := serveAs(ctx, thief, name, of)
			Eventually(func() []certificatesv1.CertificateSigningRequestCondition {
				Expect(h.api.Get(ctx, client.ObjectKeyFromObject(csr), csr)).To(Succeed())
				return csr.Status.Conditions
			}).Should(ContainElement(HaveField("Type", certificatesv1.CertificateDenied)))
			Expect(csr.Status.Certificate).To(BeEmpty())
		}

		By("it reads through the broker what its own pods refer to")
		const broker = "/apis/subresources.drayage.dev/v1alpha1/nodes/"
		Expect(stream(ctx, config, broker+m.name+"/podobjects")).To(Succeed())
		Expect(stream(ctx, config, broker+other.name+"/podobjects")).To(Satisfy(apierrors.IsForbidden))

		By("it writes its own Node, and nothing of others")
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"example.com/a":"b"}}}`))
		status := client.RawPatch(types.MergePatchType, []byte(`{"status":{"message":"stolen"}}`))
		theirs := other.podOf(ctx, "myapp")
		Expect(thief.Patch(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name}}, patch)).To(Succeed())
		ordinary := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "planted"}}
		ordinary.Spec.Containers = []corev1.Container{{Name: "a", Image: "a"}}
		planted := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "planted"}, Spec: *ordinary.Spec.DeepCopy()}
		for what, attempt := range map[string]func() error{
			"another Node": func() error {
				return thief.Patch(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: other.name}}, patch)
			},
			"another node's pod": func() error { return thief.Status().Patch(ctx, theirs.DeepCopy(), status) },
			"a pod's binding":    func() error { return thief.Create(ctx, planted) },
			"a deletion":         func() error { return thief.Delete(ctx, theirs.DeepCopy()) },
			"the host's node": func() error {
				return thief.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name}}, patch)
			},
			"a pod of the host": func() error { return thief.Create(ctx, ordinary) },
			"Secrets":           func() error { return thief.List(ctx, &corev1.SecretList{}) },
			"the authority's Secret": func() error {
				return thief.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "drayage-ca"}, &corev1.Secret{})
			},
			"ConfigMaps": func() error { return thief.List(ctx, &corev1.ConfigMapList{}) },
			"a token of a manager": func() error {
				manager := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "drayage-manager"}}
				return thief.SubResource("token").Create(ctx, manager, &authenticationv1.TokenRequest{})
			},
		} {
			Expect(attempt()).To(Satisfy(apierrors.IsForbidden), what)
		}
	}, SpecTimeout(time.Minute))
}

// thief returns a client with the token that the machine's agent has in a file.
func (m *machine) thief() (client.Client, *rest.Config) {
	GinkgoHelper()
	token, err := os.ReadFile(m.path("/run/drayage/identity/token"))
	Expect(err).NotTo(HaveOccurred())
	config := rest.AnonymousClientConfig(m.admin)
	config.BearerToken, config.Dial = strings.TrimSpace(string(token)), m.network.DialContext
	thief, err := client.New(config, client.Options{Scheme: scheme.New()})
	Expect(err).NotTo(HaveOccurred())
	return thief, config
}

// serveAs asks for a serving certificate of a node.
func serveAs(ctx context.Context, as client.Client, name, node string) *certificatesv1.CertificateSigningRequest {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: dcorev1.NodeUserPrefix + node, Organization: []string{dcorev1.NodesGroup}}, DNSNames: []string{node},
	}, key)
	Expect(err).NotTo(HaveOccurred())
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}
	csr.Spec = certificatesv1.CertificateSigningRequestSpec{
		SignerName: join.ServingSigner, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
	}
	Expect(as.Create(ctx, csr)).To(Succeed())
	return csr
}

// stream opens a stream and closes it.
func stream(ctx context.Context, config *rest.Config, path string) error {
	config = withCodec(rest.CopyConfig(config))
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	raw, err := rest.UnversionedRESTClientForConfigAndClient(config, httpClient)
	if err != nil {
		return err
	}
	body, err := raw.Get().AbsPath(path).Stream(ctx)
	if err != nil {
		return err
	}
	return body.Close()
}
