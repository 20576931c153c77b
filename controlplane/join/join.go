package join

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"

	"drayage.dev/controlplane/pki"
)

const (
	// dialTimeout bounds the first contact with a server.
	dialTimeout = 10 * time.Second

	// issueTimeout bounds the wait for a certificate, which the server signs at once.
	issueTimeout = time.Minute

	clientStore  = "node-client"
	servingStore = "node-serving"
)

// Config says which machine joins which cluster.
type Config struct {
	// Server is the URL of the API server, such as https://10.0.0.1:6443.
	Server string
	// Token lets a machine in that has no certificate yet. One that has a good one needs none, and does
	// not ask the server either, so that an agent starts while the server is away.
	Token string
	// NodeName is the name that the machine joins by.
	NodeName string
	// Dir is the agent's directory; Ensure writes `kubeconfig` and `pki` in it.
	Dir string
}

// Credentials are a node's certificates on disk.
type Credentials struct {
	// Kubeconfig leads to the API server as the node. It names files that renewal replaces, and clients
	// follow.
	Kubeconfig string
	// CAFile is the cluster's authority.
	CAFile string

	config Config
	client certificate.FileStore
}

// Ensure makes sure that a machine has credentials of its cluster, by joining if need be. Errors say what
// to do.
func Ensure(ctx context.Context, config Config) (*Credentials, error) {
	c := &Credentials{Kubeconfig: filepath.Join(config.Dir, "kubeconfig"), CAFile: filepath.Join(config.Dir, "pki", "ca.crt"), config: config}
	if err := os.MkdirAll(filepath.Join(config.Dir, "pki"), 0o700); err != nil {
		return nil, fmt.Errorf("preparing the agent's directory: %w", err)
	}
	var err error
	if c.client, err = c.store(clientStore); err != nil {
		return nil, err
	}
	if !c.good() {
		if err := c.join(ctx); err != nil {
			return nil, fmt.Errorf("joining %s as %s: %w", config.Server, config.NodeName, err)
		}
	}
	// Written in any case: the server's URL may have changed.
	return c, c.writeKubeconfig()
}

func (c *Credentials) store(name string) (certificate.FileStore, error) {
	dir := filepath.Join(c.config.Dir, "pki")
	store, err := certificate.NewFileStore(name, dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("opening the certificates in %s: %w", dir, err)
	}
	return store, nil
}

// good tells whether there is a certificate for this node, of the cluster that the token, if any, is for.
func (c *Credentials) good() bool {
	authorities, err := certutil.CertsFromFile(c.CAFile)
	if err != nil {
		return false
	}
	if token, err := ParseToken(c.config.Token); err == nil && !token.Pins(authorities[0]) {
		return false
	}
	pair, err := c.client.Current()
	if err != nil || pair.Leaf == nil {
		return false
	}
	leaf := pair.Leaf
	return leaf.CheckSignatureFrom(authorities[0]) == nil && leaf.Subject.CommonName == UserName(c.config.NodeName) && time.Now().Before(leaf.NotAfter)
}

func (c *Credentials) join(ctx context.Context) error {
	if c.config.Token == "" {
		return errors.New("this machine has no certificate of the cluster: pass --token; `dray token create` on the server prints one")
	}
	token, err := ParseToken(c.config.Token)
	if err != nil {
		return err
	}
	authority, err := pinnedAuthority(ctx, c.config.Server, token)
	if err != nil {
		return err
	}
	bearer := &rest.Config{Host: c.config.Server, BearerToken: token.Bearer(), TLSClientConfig: rest.TLSClientConfig{CAData: pki.CertPEM(authority)}}
	client, err := kubernetes.NewForConfig(bearer)
	if err != nil {
		return err
	}
	cert, key, err := requestCertificate(ctx, client, c.config.NodeName)
	if err != nil {
		return err
	}
	// The authority first: without a certificate it does no harm, and the certificate is no good without it.
	if err := pki.WriteFile(c.CAFile, pki.CertPEM(authority), 0o644); err != nil {
		return err
	}
	if _, err := c.client.Update(cert, key); err != nil {
		return fmt.Errorf("storing the node's certificate: %w", err)
	}
	return nil
}

// pinnedAuthority asks a server for its certificates and returns the authority that the token pins, having
// made sure that the server's own certificate is that authority's.
func pinnedAuthority(ctx context.Context, server string, token Token) (*x509.Certificate, error) {
	address, err := url.Parse(server)
	if err != nil || address.Scheme != "https" || address.Hostname() == "" {
		return nil, fmt.Errorf("%q is not a URL such as https://10.0.0.1:6443", server)
	}
	port := address.Port()
	if port == "" {
		port = "443"
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var authority *x509.Certificate
	dialer := &tls.Dialer{Config: &tls.Config{
		ServerName:         address.Hostname(),
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks more: the pin
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			authority, err = verifyPin(state, token)
			return err
		},
	}}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address.Hostname(), port))
	switch {
	case errors.Is(err, errPin):
		return nil, errPin
	case err != nil:
		return nil, fmt.Errorf("reaching the server: %w: check that `dray server` runs there and that nothing blocks the port", err)
	}
	return authority, connection.Close()
}

var errPin = errors.New("the server's authority is not the one that the token names: check the URL and the token, or somebody answers in the server's place")

func verifyPin(state tls.ConnectionState, token Token) (*x509.Certificate, error) {
	for _, candidate := range state.PeerCertificates[1:] {
		if !candidate.IsCA || !token.Pins(candidate) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(candidate)
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: state.ServerName})
		return candidate, err
	}
	return nil, errPin
}

var errUnknownToken = errors.New("the server does not know the token, or it has expired: `dray token create` on the server prints a new one")

// waitForCertificate is csr.WaitForCertificate, which takes every refusal for a passing fault, for a token that may
// end meanwhile: then there is nothing to wait for.
func waitForCertificate(ctx context.Context, client kubernetes.Interface, name string, uid types.UID) ([]byte, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	go wait.UntilWithContext(ctx, func(ctx context.Context) {
		if _, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{}); apierrors.IsUnauthorized(err) {
			giveUp(errUnknownToken)
		}
	}, time.Second)
	cert, err := csr.WaitForCertificate(ctx, client, name, uid)
	if cause := context.Cause(ctx); errors.Is(cause, errUnknownToken) {
		return nil, cause
	}
	return cert, err
}

// requestCertificate asks for a client certificate. The key exists in memory until the certificate is
// there: a crash in between costs a request, which the server forgets within hours.
func requestCertificate(ctx context.Context, client kubernetes.Interface, nodeName string) (cert, key []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the node's key: %w", err)
	}
	if key, err = keyutil.MarshalPrivateKeyToPEM(private); err != nil {
		return nil, nil, fmt.Errorf("encoding the node's key: %w", err)
	}
	request, err := certutil.MakeCSRFromTemplate(private, clientTemplate(nodeName))
	if err != nil {
		return nil, nil, fmt.Errorf("making the certificate request: %w", err)
	}
	name, uid, err := csr.RequestCertificateWithContext(ctx, client, request, "", ClientSigner, nil, usages(certificatesv1.UsageClientAuth), crypto.Signer(private))
	switch {
	case apierrors.IsUnauthorized(err):
		return nil, nil, errUnknownToken
	case err != nil:
		return nil, nil, fmt.Errorf("asking for the node's certificate: %w", err)
	}
	cert, err = waitForCertificate(ctx, client, name, uid)
	if errors.Is(err, errUnknownToken) {
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, fmt.Errorf("waiting for the node's certificate: %w: `dray kubectl describe csr %s` on the server tells more", err, name)
	}
	return cert, key, nil
}

func (c *Credentials) writeKubeconfig() error {
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		return fmt.Errorf("reading the cluster's authority: %w", err)
	}
	pair := c.client.CurrentPath()
	kubeconfig := pki.Kubeconfig(c.config.Server, ca, &clientcmdapi.AuthInfo{ClientCertificate: pair, ClientKey: pair})
	data, err := clientcmd.Write(*kubeconfig)
	if err != nil {
		return err
	}
	return pki.WriteFile(c.Kubeconfig, data, 0o600)
}
