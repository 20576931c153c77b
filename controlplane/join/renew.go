package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate"

	dcorev1 "drayage.dev/apis/core/v1"
)

// Signers of certificates.k8s.io that issue the certificates of nodes.
const (
	ClientSigner  = "drayage.dev/node-client"
	ServingSigner = "drayage.dev/node-serving"
)

// UserName is the user that a node is towards the API server.
func UserName(node string) string { return dcorev1.NodeUserPrefix + node }

func clientTemplate(node string) *x509.CertificateRequest {
	return &x509.CertificateRequest{Subject: pkix.Name{CommonName: UserName(node), Organization: []string{dcorev1.NodesGroup}}}
}

// usages are what a certificate with an elliptic-curve key is for.
func usages(auth certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	return []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, auth}
}

// Certificates keeps a node's certificates fresh.
type Certificates struct {
	client, serving certificate.Manager
}

// Keep starts to renew the client certificate, and to ask for and renew a serving certificate for the
// addresses and names that the node's Node object shows, until the context ends. Renewal starts when a fifth
// of the lifetime is left at the latest; until it succeeds it is tried again and again.
func (c *Credentials) Keep(ctx context.Context, ips []net.IP, dnsNames []string) (*Certificates, error) {
	client, err := keep(ctx, c.newClient, certificate.Config{
		Name: clientStore, SignerName: ClientSigner, Template: clientTemplate(c.config.NodeName),
		Usages: usages(certificatesv1.UsageClientAuth), CertificateStore: c.client,
	})
	if err != nil {
		return nil, err
	}
	serving, err := c.keepServing(ctx, ips, dnsNames)
	return &Certificates{client: client, serving: serving}, err
}

// KeepServing is Keep for a node that reaches the API server otherwise than by a client certificate: as a pod
// of the cluster, by its service account's token. The certificate is kept in dir.
func KeepServing(ctx context.Context, kubeconfig, nodeName, dir string, ips []net.IP, dnsNames []string) (*Certificates, error) {
	c := &Credentials{Kubeconfig: kubeconfig, config: Config{NodeName: nodeName, Dir: dir}}
	if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
		return nil, fmt.Errorf("preparing the agent's directory: %w", err)
	}
	serving, err := c.keepServing(ctx, ips, dnsNames)
	return &Certificates{serving: serving}, err
}

// keepServing keeps the serving certificate. Of what GetTemplate returns, a change of address asks for a new
// one; of a Template it does not.
func (c *Credentials) keepServing(ctx context.Context, ips []net.IP, dnsNames []string) (certificate.Manager, error) {
	template := clientTemplate(c.config.NodeName)
	template.IPAddresses, template.DNSNames = ips, dnsNames
	pairs, err := c.store(servingStore)
	if err != nil {
		return nil, err
	}
	return keep(ctx, c.newClient, certificate.Config{
		Name: servingStore, SignerName: ServingSigner, GetTemplate: func() *x509.CertificateRequest { return template },
		Usages: usages(certificatesv1.UsageServerAuth), CertificateStore: pairs,
	})
}

func keep(ctx context.Context, newClient certificate.ClientsetFunc, config certificate.Config) (certificate.Manager, error) {
	config.ClientsetFn, config.Ctx = newClient, &ctx
	manager, err := certificate.NewManager(&config)
	if err != nil {
		return nil, fmt.Errorf("keeping the certificate %s: %w", config.Name, err)
	}
	manager.Start()
	return manager, nil
}

func (c *Credentials) newClient(*tls.Certificate) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// errNoServingCertificate lasts from a node's first start until the server has seen its Node object.
var errNoServingCertificate = errors.New("this node has no serving certificate yet")

// Serving is for tls.Config.GetCertificate: the node's serving certificate as it is now.
func (c *Certificates) Serving(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := c.serving.Current(); pair != nil {
		return pair, nil
	}
	return nil, errNoServingCertificate
}
