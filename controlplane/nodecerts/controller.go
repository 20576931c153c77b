package nodecerts

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	certificateshelper "k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/controller/certificates"

	"drayage.dev/controlplane/join"
	"drayage.dev/controlplane/pki"
)

const (
	// lifetime is how long a node's certificate is good for, unless it asks for less.
	lifetime = 365 * 24 * time.Hour

	// minLifetime is the least that is granted: twice by what certificates are backdated.
	minLifetime = 10 * time.Minute

	reasonDenied   = "NotForThisNode"
	reasonApproved = "NodeCertificate"

	workers = 2
)

// Config is what the controller needs.
type Config struct {
	// Client reaches the API server and may approve and sign for both signers.
	Client *rest.Config
	// Authority returns who signs at the moment.
	Authority func() *pki.Authority
	// Reserved are the names and addresses that stand for the API server; no node gets a certificate for
	// one.
	Reserved []string
	// Agents is the user of the agents' service account where agents are pods; empty where none are.
	Agents string
	// Addresses returns what a node's Node object says that it is reached at. The error is NotFound for a
	// node that is not there.
	Addresses func(ctx context.Context, node string) ([]corev1.NodeAddress, error)
}

// Run approves and signs until the context ends.
func Run(ctx context.Context, config Config) error {
	client, err := kubernetes.NewForConfig(config.Client)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	c := &controller{Config: config, client: client}
	loop := certificates.NewCertificateController(ctx, "node-certificates", client, factory.Certificates().V1().CertificateSigningRequests(), c.handle)
	factory.Start(ctx.Done())
	loop.Run(ctx, workers)
	factory.Shutdown()
	return nil
}

type controller struct {
	Config
	client kubernetes.Interface
}

// handle brings one request that has no certificate yet one step further. An error comes back later, with
// back-off.
func (c *controller) handle(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	if csr.Spec.SignerName != join.ClientSigner && csr.Spec.SignerName != join.ServingSigner {
		return nil
	}
	approved, denied := certificates.GetCertApprovalCondition(&csr.Status)
	if denied || certificates.HasTrueCondition(csr, certificatesv1.CertificateFailed) {
		return nil
	}
	request, err := certificateshelper.ParseCSR(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("parsing the certificate request %s: %w", csr.Name, err)
	}
	ask, err := newAsk(csr.Spec, request)
	if err == nil {
		if name := ask.impersonates(c.Reserved); name != "" {
			err = fmt.Errorf("%s is the API server's", name)
		}
	}
	switch {
	case err != nil && approved:
		return c.fail(ctx, csr, err)
	case err != nil:
		return c.decide(ctx, csr, certificatesv1.CertificateDenied, reasonDenied, err.Error())
	case approved:
		return c.sign(ctx, csr, ask)
	}
	if err := ask.mayAsk(c.Agents); err != nil {
		return c.decide(ctx, csr, certificatesv1.CertificateDenied, reasonDenied, err.Error())
	}
	if csr.Spec.SignerName == join.ServingSigner {
		addresses, err := c.Addresses(ctx, ask.node)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("reading the addresses of node %s: %w", ask.node, err)
		}
		if foreign := ask.foreign(addresses); foreign != "" {
			// A node asks about when it registers, so its address may be on its way.
			return certificates.IgnorableError("node %s does not show the address %s", ask.node, foreign)
		}
	}
	return c.decide(ctx, csr, certificatesv1.CertificateApproved, reasonApproved, "the certificate is the node's own")
}

func (c *controller) decide(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, decision certificatesv1.RequestConditionType, reason, message string) error {
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: decision, Status: corev1.ConditionTrue, Reason: reason, Message: message,
	})
	if _, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("deciding on the certificate request %s: %w", csr.Name, err)
	}
	return nil
}

// fail ends a request that a person approved and nobody may sign.
func (c *controller) fail(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, cause error) error {
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: reasonDenied, Message: cause.Error(),
	})
	return c.updateStatus(ctx, csr)
}

func (c *controller) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, ask *ask) error {
	granted := lifetime
	if seconds := csr.Spec.ExpirationSeconds; seconds != nil {
		granted = min(lifetime, max(minLifetime, time.Duration(*seconds)*time.Second))
	}
	cert, err := c.Authority().SignRequest(ask.request.Raw, csr.Spec.Usages, granted)
	if err != nil {
		return fmt.Errorf("signing the certificate request %s: %w", csr.Name, err)
	}
	csr.Status.Certificate = cert
	return c.updateStatus(ctx, csr)
}

func (c *controller) updateStatus(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	if _, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("answering the certificate request %s: %w", csr.Name, err)
	}
	return nil
}
