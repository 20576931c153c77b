package certs

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"

	certutil "k8s.io/client-go/util/cert"

	"drayage.dev/controlplane/pki"
)

const (
	// authorityLifetime is how long an authority is good for.
	authorityLifetime = 2 * 365 * 24 * time.Hour

	// trustedAhead is how long a new authority is trusted before it signs: managers and agents look at
	// the bundle every minute, and a manager that was away for an hour is a failure of its own.
	trustedAhead = time.Hour

	authorityName = "drayage-cluster-ca"
)

// The keys of the Secret: the authority that signs, the one that will, and all that are trusted.
const (
	signingCert, signingKey = "tls.crt", "tls.key"
	nextCert, nextKey       = "next.crt", "next.key"
	bundleCert              = "ca.crt"
)

// authorities are what the Secret holds.
type authorities struct {
	signing *pki.Authority
	// next will sign once it was trusted for long enough; nil while signing is young.
	next *pki.Authority
	// trusted are the certificates of both, and of those that signed before and are still good.
	trusted []*x509.Certificate
}

// parse reads the Secret's data. A Secret without any is one without authorities.
func parse(data map[string][]byte) (a authorities, err error) {
	if len(data[signingCert]) == 0 {
		return a, nil
	}
	if a.signing, err = pki.Parse(data[signingCert], data[signingKey]); err != nil {
		return a, err
	}
	if len(data[nextCert]) > 0 {
		if a.next, err = pki.Parse(data[nextCert], data[nextKey]); err != nil {
			return a, err
		}
	}
	if a.trusted, err = certutil.ParseCertsPEM(data[bundleCert]); err != nil {
		return a, fmt.Errorf("parsing the trusted authorities: %w", err)
	}
	return a, nil
}

// data is the inverse of parse.
func (a authorities) data() (map[string][]byte, error) {
	key, err := a.signing.KeyPEM()
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{signingCert: a.signing.CertPEM(), signingKey: key, bundleCert: a.bundle()}
	if a.next != nil {
		if data[nextKey], err = a.next.KeyPEM(); err != nil {
			return nil, err
		}
		data[nextCert] = a.next.CertPEM()
	}
	return data, nil
}

// bundle is what clients are to trust, PEM.
func (a authorities) bundle() []byte {
	var out bytes.Buffer
	for _, cert := range a.trusted {
		out.Write(pki.CertPEM(cert))
	}
	return out.Bytes()
}

// advance returns what the authorities should be now, and whether that is a change. It is one step: a first
// authority, a successor that is trusted in advance, the successor's turn, an end of the trust in the past.
func (a authorities) advance(now time.Time) (authorities, bool, error) {
	var err error
	switch {
	case a.signing == nil || a.next == nil && expired(a.signing.Certificate(), now):
		// Nobody can be told in advance: there is none, or all managers were away for its last months.
		if a.signing, err = pki.New(authorityName, authorityLifetime, now); err != nil {
			return a, false, err
		}
		a.next, a.trusted = nil, []*x509.Certificate{a.signing.Certificate()}
		return a, true, nil
	case a.next == nil && aged(a.signing.Certificate(), now):
		if a.next, err = pki.New(authorityName, authorityLifetime, now); err != nil {
			return a, false, err
		}
		a.trusted = append(a.trusted, a.next.Certificate())
		return a, true, nil
	case a.next != nil && (now.Sub(a.next.Certificate().NotBefore) >= trustedAhead || expired(a.signing.Certificate(), now)):
		a.signing, a.next = a.next, nil
		return a, true, nil
	}
	kept := make([]*x509.Certificate, 0, len(a.trusted))
	for _, cert := range a.trusted {
		if !expired(cert, now) {
			kept = append(kept, cert)
		}
	}
	changed := len(kept) < len(a.trusted)
	a.trusted = kept
	return a, changed, nil
}

func expired(cert *x509.Certificate, now time.Time) bool { return now.After(cert.NotAfter) }

// aged says that less than a third of a certificate's life is left.
func aged(cert *x509.Certificate, now time.Time) bool {
	return now.After(cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3))
}
