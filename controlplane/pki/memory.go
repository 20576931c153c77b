package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// New makes an authority that is kept by the caller, not in a directory. It is good for lifetime from now.
func New(commonName string, lifetime time.Duration, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of %q: %w", commonName, err)
	}
	cert, err := selfSign(commonName, key, now, lifetime)
	if err != nil {
		return nil, err
	}
	return &Authority{cert: cert, key: key}, nil
}

// Parse returns the authority of a certificate and its key, both PEM.
func Parse(certPEM, keyPEM []byte) (*Authority, error) {
	certs, err := certutil.ParseCertsPEM(certPEM)
	if err != nil {
		return nil, fmt.Errorf("parsing an authority's certificate: %w", err)
	}
	parsed, err := keyutil.ParsePrivateKeyPEM(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("parsing an authority's key: %w", err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok || !matches(key, certs[0]) {
		return nil, fmt.Errorf("parsing an authority: the key is not that of the certificate %q", certs[0].Subject.CommonName)
	}
	return &Authority{cert: certs[0], key: key}, nil
}

// KeyPEM returns the authority's private key.
func (a *Authority) KeyPEM() ([]byte, error) {
	key, err := keyutil.MarshalPrivateKeyToPEM(a.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of %q: %w", a.cert.Subject.CommonName, err)
	}
	return key, nil
}

// IssueServing signs a serving certificate for DNS names with a key made for it, good for a year from now.
// The results are PEM.
func (a *Authority) IssueServing(commonName string, dnsNames []string, now time.Time) (cert, key []byte, err error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    dnsNames,
	}, now)
}

func matches(key crypto.Signer, cert *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

// selfSign makes the certificate of an authority.
func selfSign(commonName string, key crypto.Signer, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the authority %q: %w", commonName, err)
	}
	return x509.ParseCertificate(der)
}
