package join_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/kubernetes/pkg/apis/certificates"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controlplane"
	"drayage.dev/controlplane/join"
	"drayage.dev/test/env"
)

var _ = Describe("joining a cluster", Ordered, func() {
	var (
		e      *env.Env
		admin  kubernetes.Interface
		token  join.Token
		config join.Config
		// undecided keeps the requests of one user from being decided.
		undecided = holdUp{Handler: admission.NewHandler(admission.Update)}
	)

	BeforeAll(func(ctx context.Context) {
		var err error
		e, err = env.Start(context.WithoutCancel(ctx), env.WithAdmission(controlplane.AdmissionPlugin{
			Name: "Undecided", New: func() (admission.Interface, error) { return &undecided, nil },
		}))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		admin, err = kubernetes.NewForConfig(e.Config)
		Expect(err).NotTo(HaveOccurred())
		line, err := os.ReadFile(e.Info.TokenFile)
		Expect(err).NotTo(HaveOccurred())
		token, err = join.ParseToken(string(line))
		Expect(err).NotTo(HaveOccurred())
	})

	BeforeEach(func() {
		config = join.Config{Server: e.Config.Host, Token: token.String(), NodeName: "n1", Dir: GinkgoT().TempDir()}
	})

	whoAmI := func(ctx context.Context, credentials *join.Credentials) string {
		GinkgoHelper()
		config, err := clientcmd.BuildConfigFromFlags("", credentials.Kubeconfig)
		Expect(err).NotTo(HaveOccurred())
		review, err := kubernetes.NewForConfigOrDie(config).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(review.Status.UserInfo.Groups).To(ContainElement(dcorev1.NodesGroup))
		return review.Status.UserInfo.Username
	}

	// store makes a token, and waits until the API server knows it.
	store := func(ctx context.Context, token join.Token) {
		GinkgoHelper()
		Expect(join.StoreToken(ctx, admin, token, time.Hour, "for a test")).To(Succeed())
		config := rest.AnonymousClientConfig(e.Config)
		config.BearerToken = token.ID + "." + token.Secret
		bearer := kubernetes.NewForConfigOrDie(config)
		Eventually(func() error {
			_, err := bearer.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			return err
		}).Should(Succeed())
	}

	It("gives a machine the identity of its node, once", func(ctx context.Context) {
		credentials, err := join.Ensure(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		Expect(whoAmI(ctx, credentials)).To(Equal("drayage:node:n1"))
		for _, file := range []string{"kubeconfig", "pki/node-client-current.pem"} {
			info, err := os.Stat(filepath.Join(config.Dir, file))
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)), file)
		}

		By("starting again without token and without a server")
		again := config
		again.Token, again.Server = "", "https://127.0.0.1:1"
		_, err = join.Ensure(ctx, again)
		Expect(err).NotTo(HaveOccurred())

		By("joining anew under another name")
		config.NodeName = "n2"
		_, err = join.Ensure(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		certs, err := certutil.CertsFromFile(filepath.Join(config.Dir, "pki/node-client-current.pem"))
		Expect(err).NotTo(HaveOccurred())
		Expect(certs[0].Subject.CommonName).To(Equal("drayage:node:n2"))
	})

	It("says in one line what is wrong", func(ctx context.Context) {
		other := token
		other.Secret = "0123456789abcdef"
		config.Token = other.String()
		_, err := join.Ensure(ctx, config)
		Expect(err).To(MatchError(ContainSubstring("the server does not know the token, or it has expired: `dray token create`")))

		other = token
		other.Pin[0]++
		config.Token = other.String()
		_, err = join.Ensure(ctx, config)
		Expect(err).To(MatchError(ContainSubstring("the server's authority is not the one that the token names")))

		config.Token = "abc"
		_, err = join.Ensure(ctx, config)
		Expect(err).To(MatchError(join.ErrTokenFormat))

		config.Token = ""
		_, err = join.Ensure(ctx, config)
		Expect(err).To(MatchError(ContainSubstring("pass --token")))

		config.Token, config.Server = token.String(), "https://127.0.0.1:1"
		_, err = join.Ensure(ctx, config)
		Expect(err).To(MatchError(And(ContainSubstring("connection refused"), ContainSubstring("check that `dray server` runs there"))))
		Expect(err.Error()).NotTo(ContainSubstring("\n"))

		_, err = os.Stat(filepath.Join(config.Dir, "kubeconfig"))
		Expect(os.IsNotExist(err)).To(BeTrue())
	})

	It("keeps a serving certificate for the addresses that the Node shows", func(ctx context.Context) {
		config.NodeName = "n3"
		credentials, err := join.Ensure(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		keepCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		DeferCleanup(stop)
		certificates, err := credentials.Keep(keepCtx, []net.IP{net.IPv4(192, 0, 2, 7)}, []string{"n3"})
		Expect(err).NotTo(HaveOccurred())
		Consistently(func() error { _, err := certificates.Serving(nil); return err }, "1s").Should(HaveOccurred())

		c, err := e.Client()
		Expect(err).NotTo(HaveOccurred())
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}}
		Expect(c.Create(ctx, node)).To(Succeed())
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}
		Expect(c.Status().Update(ctx, node)).To(Succeed())

		var pair *tls.Certificate
		Eventually(func() (err error) { pair, err = certificates.Serving(nil); return err }).Should(Succeed())
		roots, err := certutil.NewPool(credentials.CAFile)
		Expect(err).NotTo(HaveOccurred())
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "192.0.2.7"})
		Expect(err).NotTo(HaveOccurred())
	})

	It("refuses what is not a node's own", func(ctx context.Context) {
		config.NodeName = "n4"
		credentials, err := join.Ensure(ctx, config)
		Expect(err).NotTo(HaveOccurred())
		nodeConfig, err := clientcmd.BuildConfigFromFlags("", credentials.Kubeconfig)
		Expect(err).NotTo(HaveOccurred())
		node := kubernetes.NewForConfigOrDie(nodeConfig)

		request := func(subject string, signer string, auth certificatesv1.KeyUsage) string {
			GinkgoHelper()
			key, err := keyutil.MakeEllipticPrivateKeyPEM()
			Expect(err).NotTo(HaveOccurred())
			private, err := keyutil.ParsePrivateKeyPEM(key)
			Expect(err).NotTo(HaveOccurred())
			template := &x509.CertificateRequest{}
			template.Subject.CommonName, template.Subject.Organization = subject, []string{dcorev1.NodesGroup}
			data, err := certutil.MakeCSRFromTemplate(private, template)
			Expect(err).NotTo(HaveOccurred())
			name, _, err := csr.RequestCertificateWithContext(ctx, node, data, "", signer, nil,
				[]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, auth}, private)
			Expect(err).NotTo(HaveOccurred())
			return name
		}
		denied := func(name string) string {
			GinkgoHelper()
			var message string
			Eventually(func(g Gomega) {
				answer, err := admin.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(answer.Status.Conditions).To(HaveLen(1))
				g.Expect(answer.Status.Conditions[0].Type).To(Equal(certificatesv1.CertificateDenied))
				message = answer.Status.Conditions[0].Message
			}).Should(Succeed())
			return message
		}
		Expect(denied(request("drayage:node:n5", join.ClientSigner, certificatesv1.UsageClientAuth))).To(ContainSubstring("drayage:node:n4 may not ask"))
		Expect(denied(request("system:admin", join.ClientSigner, certificatesv1.UsageClientAuth))).To(ContainSubstring("is not drayage:node:"))
		Expect(denied(request("drayage:node:n4", join.ServingSigner, certificatesv1.UsageServerAuth))).To(ContainSubstring("needs names or addresses"))
		Expect(denied(request("drayage:node:n4", join.ClientSigner, certificatesv1.UsageServerAuth))).To(ContainSubstring(`lacks the usage "client auth"`))
	})

	It("manages tokens", func(ctx context.Context) {
		authority, err := certutil.CertsFromFile(e.Info.CAFile)
		Expect(err).NotTo(HaveOccurred())
		short, err := join.NewToken(authority[0])
		Expect(err).NotTo(HaveOccurred())
		Expect(join.ParseToken(short.String())).To(Equal(short))
		store(ctx, short)
		tokens, err := join.ListTokens(ctx, admin)
		Expect(err).NotTo(HaveOccurred())
		Expect(tokens).To(HaveLen(2))
		config.Token, config.NodeName = short.String(), "n6"
		_, err = join.Ensure(ctx, config)
		Expect(err).NotTo(HaveOccurred())

		Expect(join.DeleteToken(ctx, admin, short.ID)).To(Succeed())
		Expect(join.DeleteToken(ctx, admin, short.ID)).To(MatchError(ContainSubstring("there is no such token")))
		Eventually(func() error {
			config.Dir = GinkgoT().TempDir()
			_, err := join.Ensure(ctx, config)
			return err
		}).Should(MatchError(ContainSubstring("does not know the token")))
	})

	It("waits no longer for a certificate when its token is gone", func(ctx SpecContext) {
		authority, err := certutil.CertsFromFile(e.Info.CAFile)
		Expect(err).NotTo(HaveOccurred())
		short, err := join.NewToken(authority[0])
		Expect(err).NotTo(HaveOccurred())
		user := "system:bootstrap:" + short.ID
		undecided.user.Store(user)
		store(ctx, short)
		config.Token, config.NodeName = short.String(), "n7"
		result := make(chan error, 1)
		go func() {
			_, err := join.Ensure(ctx, config)
			result <- err
		}()
		Eventually(func(g Gomega) {
			requests, err := admin.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(requests.Items).To(ContainElement(HaveField("Spec.Username", user)))
		}).Should(Succeed())
		Consistently(result, 2*time.Second).ShouldNot(Receive(), "while the token is good, there is hope")
		Expect(join.DeleteToken(ctx, admin, short.ID)).To(Succeed())
		// The wait for a certificate is a minute.
		Eventually(result, 45*time.Second).Should(Receive(MatchError(ContainSubstring("the server does not know the token, or it has expired"))))
	}, SpecTimeout(5*time.Minute))
})

// holdUp refuses every decision on the certificate requests of a user.
type holdUp struct {
	*admission.Handler
	user atomic.Value
}

func (h *holdUp) Validate(_ context.Context, attributes admission.Attributes, _ admission.ObjectInterfaces) error {
	request, ok := attributes.GetObject().(*certificates.CertificateSigningRequest)
	if ok && attributes.GetSubresource() == "approval" && request.Spec.Username == h.user.Load() {
		return apierrors.NewServiceUnavailable("for a test")
	}
	return nil
}
