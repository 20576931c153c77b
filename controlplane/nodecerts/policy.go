package nodecerts

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controlplane/join"
)

// ask is a certificate request with what it asks for taken apart.
type ask struct {
	spec    certificatesv1.CertificateSigningRequestSpec
	request *x509.CertificateRequest
	node    string
}

// newAsk reads a request and checks what holds for every certificate of a node, whoever asks and whoever
// approved: its subject is a node's, and it serves one purpose.
func newAsk(spec certificatesv1.CertificateSigningRequestSpec, request *x509.CertificateRequest) (*ask, error) {
	node, isNode := strings.CutPrefix(request.Subject.CommonName, dcorev1.NodeUserPrefix)
	if !isNode || len(validation.NameIsDNSSubdomain(node, false)) > 0 {
		return nil, fmt.Errorf("its subject %q is not %s<name of a node>", request.Subject.CommonName, dcorev1.NodeUserPrefix)
	}
	if !slices.Equal(request.Subject.Organization, []string{dcorev1.NodesGroup}) {
		return nil, fmt.Errorf("its organization is not %s alone", dcorev1.NodesGroup)
	}
	if len(request.EmailAddresses)+len(request.URIs) > 0 {
		return nil, errors.New("it names e-mail addresses or URIs")
	}
	purpose := certificatesv1.UsageClientAuth
	if spec.SignerName == join.ServingSigner {
		purpose = certificatesv1.UsageServerAuth
	}
	if !slices.Contains(spec.Usages, purpose) {
		return nil, fmt.Errorf("it lacks the usage %q", purpose)
	}
	for _, usage := range spec.Usages {
		switch usage {
		case purpose, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return nil, fmt.Errorf("its usage %q is not for nodes", usage)
		}
	}
	names := len(request.DNSNames) + len(request.IPAddresses)
	switch {
	case purpose == certificatesv1.UsageClientAuth && names > 0:
		return nil, errors.New("a client certificate has no names or addresses")
	case purpose == certificatesv1.UsageServerAuth && names == 0:
		return nil, errors.New("a serving certificate needs names or addresses")
	}
	return &ask{spec: spec, request: request, node: node}, nil
}

// mayAsk checks that whoever asks may have the certificate: a node its own; the bearer of a join token a
// client certificate, of a node that may be there already, since a machine whose disk was lost joins again by
// its old name. An agent that is a pod asks as agents, the user of its service account, and its token says
// which node it is on; it needs no client certificate.
func (a *ask) mayAsk(agents string) error {
	if a.spec.Username == join.UserName(a.node) && slices.Contains(a.spec.Groups, dcorev1.NodesGroup) {
		return nil
	}
	if a.spec.SignerName == join.ClientSigner && slices.Contains(a.spec.Groups, join.BootstrappersGroup) {
		return nil
	}
	if agents != "" && a.spec.Username == agents && a.spec.SignerName == join.ServingSigner &&
		slices.Equal(a.spec.Extra[serviceaccount.NodeNameKey], []string{a.node}) {
		return nil
	}
	return fmt.Errorf("%s may not ask for this certificate of node %s", a.spec.Username, a.node)
}

// impersonates returns the first name or address of the request that is reserved for the API server; empty for
// none. A node writes its own addresses into its Node object, so what that shows is no proof.
func (a *ask) impersonates(reserved []string) string {
	for _, name := range a.names() {
		if slices.Contains(reserved, name) {
			return name
		}
	}
	return ""
}

func (a *ask) names() []string {
	names := slices.Clone(a.request.DNSNames)
	for _, ip := range a.request.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// foreign returns the first name of the request that is not the node's, or the first address that its Node does
// not show; empty for none.
func (a *ask) foreign(addresses []corev1.NodeAddress) string {
	for _, ip := range a.request.IPAddresses {
		if !slices.ContainsFunc(addresses, func(address corev1.NodeAddress) bool { return ip.Equal(net.ParseIP(address.Address)) }) {
			return ip.String()
		}
	}
	for _, name := range a.request.DNSNames {
		if name != a.node {
			return name
		}
	}
	return ""
}
