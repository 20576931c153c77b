package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Names of the files in the directory.
const (
	caCertName         = "ca.crt"
	caKeyName          = "ca.key"
	servingCertName    = "apiserver.crt"
	servingKeyName     = "apiserver.key"
	serviceAccountName = "sa.key"
)

// Config says what a control plane needs certificates for.
type Config struct {
	// Dir is where the files are kept.
	Dir string
	// DNSNames and IPs are what the API server is called by; its certificate is made anew when they
	// are not all in it.
	DNSNames []string
	IPs      []net.IP
	// Clients are the components with a client certificate of their own, by file name without suffix.
	Clients map[string]Identity
}

// PKI is the set of certificates of one control plane.
type PKI struct {
	*Authority
	config Config
}

// Ensure loads what Config.Dir holds and makes what is missing, does not fit any more, or has less than a
// third of its life left.
func Ensure(config Config) (*PKI, error) {
	authority, err := ensureAuthority(config.Dir)
	if err != nil {
		return nil, err
	}
	if _, err := ensureKey(filepath.Join(config.Dir, serviceAccountName)); err != nil {
		return nil, err
	}
	p := &PKI{Authority: authority, config: config}
	if _, err := p.Renew(time.Now()); err != nil {
		return nil, err
	}
	return p, nil
}

// Renew makes the certificates anew that are missing, do not fit the configuration, or have less than a
// third of their life left at the given time. It returns the names of those, nil for none.
func (p *PKI) Renew(now time.Time) (renewed []string, err error) {
	if !p.fresh(p.ServingCert(), p.ServingKey(), now, p.servingFits) {
		cert, key, err := p.issueServing("drayage-apiserver", p.config.DNSNames, p.config.IPs)
		if err == nil {
			// The authority goes along, so that a joining machine can see what its token pins.
			err = p.writePair(p.ServingCert(), p.ServingKey(), append(cert, p.CertPEM()...), key)
		}
		if err != nil {
			return renewed, err
		}
		renewed = append(renewed, "apiserver")
	}
	for name, id := range p.config.Clients {
		fits := func(cert *x509.Certificate) bool {
			return cert.Subject.CommonName == id.User && slices.Equal(slices.Sorted(slices.Values(cert.Subject.Organization)), slices.Sorted(slices.Values(id.Groups)))
		}
		certFile, keyFile := p.ClientFiles(name)
		if p.fresh(certFile, keyFile, now, fits) {
			continue
		}
		cert, key, err := p.IssueClient(id)
		if err == nil {
			err = p.writePair(certFile, keyFile, cert, key)
		}
		if err != nil {
			return renewed, err
		}
		renewed = append(renewed, name)
	}
	return renewed, nil
}

// CAFile is the path of the authority's certificate.
func (p *PKI) CAFile() string { return filepath.Join(p.config.Dir, caCertName) }

// CAKeyFile is the path of the authority's key.
func (p *PKI) CAKeyFile() string { return filepath.Join(p.config.Dir, caKeyName) }

// ServingCert is the path of the API server's certificate.
func (p *PKI) ServingCert() string { return filepath.Join(p.config.Dir, servingCertName) }

// ServingKey is the path of the API server's key.
func (p *PKI) ServingKey() string { return filepath.Join(p.config.Dir, servingKeyName) }

// ServiceAccountKey is the path of the key that signs service-account tokens.
func (p *PKI) ServiceAccountKey() string { return filepath.Join(p.config.Dir, serviceAccountName) }

// ClientFiles are the paths of a component's certificate and key.
func (p *PKI) ClientFiles(name string) (cert, key string) {
	return filepath.Join(p.config.Dir, name+".crt"), filepath.Join(p.config.Dir, name+".key")
}

// Kubeconfig returns a kubeconfig for the API server at a URL and the given user entry.
func Kubeconfig(server string, ca []byte, user *clientcmdapi.AuthInfo) *clientcmdapi.Config {
	return &clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"drayage": {Server: server, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"drayage": user},
		Contexts:       map[string]*clientcmdapi.Context{"drayage": {Cluster: "drayage", AuthInfo: "drayage"}},
		CurrentContext: "drayage",
	}
}

// fresh tells whether a pair of files can go on being used.
func (p *PKI) fresh(certFile, keyFile string, now time.Time, fits func(*x509.Certificate) bool) bool {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		// Missing, half written by a crash, or not a pair: made anew in either case.
		return false
	}
	cert := pair.Leaf
	if !bytes.Equal(cert.RawIssuer, p.cert.RawSubject) || cert.CheckSignatureFrom(p.cert) != nil {
		return false
	}
	third := cert.NotAfter.Sub(cert.NotBefore) / 3
	return now.After(cert.NotBefore) && cert.NotAfter.Sub(now) > third && fits(cert)
}

func (p *PKI) servingFits(cert *x509.Certificate) bool {
	for _, name := range p.config.DNSNames {
		if !slices.Contains(cert.DNSNames, name) {
			return false
		}
	}
	for _, ip := range p.config.IPs {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// writePair replaces a certificate and its key. A reader in between sees two that do not belong together
// and keeps what it had until both are there.
func (p *PKI) writePair(certFile, keyFile string, cert, key []byte) error {
	if err := WriteFile(keyFile, key, 0o600); err != nil {
		return err
	}
	if err := WriteFile(certFile, cert, 0o644); err != nil {
		return fmt.Errorf("writing the certificate: %w", err)
	}
	return nil
}
