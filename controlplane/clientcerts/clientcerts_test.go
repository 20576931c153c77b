package clientcerts_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	certutil "k8s.io/client-go/util/cert"

	"drayage.dev/controlplane/clientcerts"
	"drayage.dev/controlplane/pki"
)

var _ = Describe("the memory of client certificates", func() {
	var (
		now          time.Time
		authority    *pki.Authority
		verified     int
		authenticate func(*http.Request) (*authenticator.Response, bool, error)
	)

	remember := func(next authenticator.Request) {
		authorities := func() []byte { return authority.CertPEM() }
		authenticate = clientcerts.RememberAt(next, authorities, func() time.Time { return now }).AuthenticateRequest
	}

	newAuthority := func() *pki.Authority {
		a, err := pki.New("test", 20*365*24*time.Hour, time.Now())
		Expect(err).NotTo(HaveOccurred())
		return a
	}
	issue := func(by *pki.Authority, name string) *x509.Certificate {
		data, _, err := by.IssueClient(pki.Identity{User: name, Groups: []string{"people"}})
		Expect(err).NotTo(HaveOccurred())
		certs, err := certutil.ParseCertsPEM(data)
		Expect(err).NotTo(HaveOccurred())
		return certs[0]
	}
	with := func(certs ...*x509.Certificate) *http.Request {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.TLS = &tls.ConnectionState{PeerCertificates: certs}
		return request
	}

	BeforeEach(func() {
		now, authority, verified = time.Now(), newAuthority(), 0
		remember(authx509.NewDynamic(func() (x509.VerifyOptions, bool) {
			verified++
			roots := x509.NewCertPool()
			roots.AddCert(authority.Certificate())
			return x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true
		}, authx509.CommonNameUserConversion))
	})

	It("repeats an answer, each to its certificate, for ten seconds", func() {
		ann, bob := issue(authority, "ann"), issue(authority, "bob")
		for range 3 {
			for name, cert := range map[string]*x509.Certificate{"ann": ann, "bob": bob} {
				response, ok, err := authenticate(with(cert))
				Expect(err).NotTo(HaveOccurred())
				Expect(ok).To(BeTrue())
				Expect(response.User.GetName()).To(Equal(name))
				Expect(response.User.GetGroups()).To(Equal([]string{"people"}))
			}
		}
		Expect(verified).To(Equal(2))
		now = now.Add(11 * time.Second)
		_, ok, err := authenticate(with(ann))
		Expect(err).NotTo(HaveOccurred())
		Expect(ok).To(BeTrue())
		Expect(verified).To(Equal(3))
	})

	It("refuses a certificate that has ended since", func() {
		cert := issue(authority, "ann")
		now = cert.NotAfter.Add(-time.Second)
		_, ok, _ := authenticate(with(cert))
		Expect(ok).To(BeTrue())
		now = cert.NotAfter.Add(time.Second)
		_, ok, err := authenticate(with(cert))
		Expect(ok).To(BeFalse())
		Expect(err).To(MatchError(ContainSubstring("expired")))
	})

	It("refuses certificates of another authority, each time anew", func() {
		foreign := issue(newAuthority(), "ann")
		_, ok, _ := authenticate(with(issue(authority, "ann")))
		Expect(ok).To(BeTrue())
		for range 2 {
			_, ok, err := authenticate(with(foreign))
			Expect(ok).To(BeFalse())
			Expect(err).To(MatchError(ContainSubstring("unknown authority")))
		}
		Expect(verified).To(Equal(3))
	})

	It("forgets what an authority vouched for once it is replaced", func() {
		cert := issue(authority, "ann")
		_, ok, _ := authenticate(with(cert))
		Expect(ok).To(BeTrue())
		authority = newAuthority()
		_, ok, err := authenticate(with(cert))
		Expect(ok).To(BeFalse())
		Expect(err).To(MatchError(ContainSubstring("unknown authority")))
	})

	It("remembers nothing that does not follow from a lone certificate", func() {
		cert := issue(authority, "ann")
		_, ok, _ := authenticate(with(cert, authority.Certificate()))
		Expect(ok).To(BeTrue())
		_, ok, _ = authenticate(with(cert, authority.Certificate()))
		Expect(ok).To(BeTrue())
		Expect(verified).To(Equal(2))

		asked := 0
		remember(authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
			if asked++; asked > 1 {
				return nil, false, errors.New("the token was revoked")
			}
			token := &user.DefaultInfo{Name: "robot", Extra: map[string][]string{user.CredentialIDKey: {"JTI=1"}}}
			return &authenticator.Response{User: token}, true, nil
		}))
		_, ok, _ = authenticate(with(cert))
		Expect(ok).To(BeTrue())
		_, ok, err := authenticate(with(cert))
		Expect(ok).To(BeFalse())
		Expect(err).To(MatchError("the token was revoked"))
	})
})
