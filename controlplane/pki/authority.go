package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/kubernetes/pkg/controller/certificates/authority"
)

const (
	// authorityLifetime is how long the cluster's own authority is good for. Its renewal would change
	// the pin in every join token and the trust of every node, so it outlives the machines.
	authorityLifetime = 20 * 365 * 24 * time.Hour

	// leafLifetime is how long a certificate of a component is good for.
	leafLifetime = 365 * 24 * time.Hour

	// backdate covers the difference of clocks between the machines of a cluster.
	backdate = 5 * time.Minute
)

// Authority is a certificate authority with its key.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Identity is whom a client certificate speaks for.
type Identity struct {
	// User is the user name, the certificate's common name.
	User string
	// Groups are the user's groups, the certificate's organizations.
	Groups []string
}

// CertPEM returns the authority's certificate.
func (a *Authority) CertPEM() []byte { return CertPEM(a.cert) }

// Certificate returns the authority's certificate. It must not be changed.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// IssueClient signs a client certificate for an identity with a key made for it, good for a year.
// The results are PEM.
func (a *Authority) IssueClient(id Identity) (cert, key []byte, err error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: id.User, Organization: id.Groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, time.Now())
}

// RESTConfig returns how an identity reaches the API server at a URL, with a certificate made for it.
func (a *Authority) RESTConfig(server string, id Identity) (*rest.Config, error) {
	cert, key, err := a.IssueClient(id)
	if err != nil {
		return nil, err
	}
	return &rest.Config{Host: server, TLSClientConfig: rest.TLSClientConfig{CAData: a.CertPEM(), CertData: cert, KeyData: key}}, nil
}

// issueServing signs a serving certificate for names and addresses with a key made for it.
func (a *Authority) issueServing(commonName string, dnsNames []string, ips []net.IP) (cert, key []byte, err error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    dnsNames,
		IPAddresses: ips,
	}, time.Now())
}

func (a *Authority) issue(template *x509.Certificate, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key for %q: %w", template.Subject.CommonName, err)
	}
	if template.SerialNumber, err = serialNumber(); err != nil {
		return nil, nil, err
	}
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(leafLifetime)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the certificate of %q: %w", template.Subject.CommonName, err)
	}
	if key, err = keyutil.MarshalPrivateKeyToPEM(private); err != nil {
		return nil, nil, fmt.Errorf("encoding the key of %q: %w", template.Subject.CommonName, err)
	}
	return encodeCert(der), key, nil
}

// ensureAuthority loads the authority from dir, or makes it where there is none. Half an authority is an
// error: a new one would cut off every node that trusts the old one.
func ensureAuthority(dir string) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, caCertName), filepath.Join(dir, caKeyName)
	_, certErr := os.Stat(certFile)
	_, keyErr := os.Stat(keyFile)
	switch {
	case certErr == nil && keyErr == nil:
		return loadAuthority(certFile, keyFile)
	case certErr == nil:
		return nil, fmt.Errorf("reading the cluster's authority: %s is there and %s is not: restore it from a backup", certFile, keyFile)
	}
	key, err := ensureKey(keyFile)
	if err != nil {
		return nil, err
	}
	cert, err := selfSign("drayage-ca", key, time.Now(), authorityLifetime)
	if err != nil {
		return nil, err
	}
	// The key is on disk before the certificate: a crash between the two leaves a key without a
	// certificate, which the next start completes.
	if err := WriteFile(certFile, CertPEM(cert), 0o644); err != nil {
		return nil, err
	}
	return loadAuthority(certFile, keyFile)
}

// Load reads the authority that Ensure keeps in a directory.
func Load(dir string) (*Authority, error) {
	return loadAuthority(filepath.Join(dir, caCertName), filepath.Join(dir, caKeyName))
}

func loadAuthority(certFile, keyFile string) (*Authority, error) {
	certs, err := readCerts(certFile)
	if err != nil {
		return nil, err
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	if !matches(key, certs[0]) {
		return nil, fmt.Errorf("reading the cluster's authority: %s is not the key of %s", keyFile, certFile)
	}
	return &Authority{cert: certs[0], key: key}, nil
}

func serialNumber() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

// SignRequest signs a certificate request (DER) for the given usages. It takes over subject and names as they
// are: whoever calls has checked them. The result is PEM.
func (a *Authority) SignRequest(request []byte, usages []certificatesv1.KeyUsage, lifetime time.Duration) ([]byte, error) {
	signer := authority.CertificateAuthority{Certificate: a.cert, PrivateKey: a.key}
	der, err := signer.Sign(request, authority.PermissiveSigningPolicy{
		TTL: lifetime, Usages: usages, Backdate: backdate, Short: 8 * time.Hour,
	})
	if err != nil {
		return nil, err
	}
	return encodeCert(der), nil
}

// CertPEM returns a certificate as PEM.
func CertPEM(cert *x509.Certificate) []byte { return encodeCert(cert.Raw) }

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
