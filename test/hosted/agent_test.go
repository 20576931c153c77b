//go:build cluster

package hosted_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controlplane/join"
	"drayage.dev/controlplane/pki"
	"drayage.dev/internal/scheme"
)

// asAgent returns a client with what the agent's pod on a node of the host has: a token of its service account
// that names the node. It makes the host's node and the pod.
func (h *host) asAgent(ctx context.Context, node string) client.Client {
	GinkgoHelper()
	Expect(client.IgnoreAlreadyExists(h.api.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}))).To(Succeed())
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "drayage-agent-" + node}}
	pod.Spec = corev1.PodSpec{NodeName: node, ServiceAccountName: "drayage-agent", Containers: []corev1.Container{{Name: "agent", Image: "drayage"}}}
	// What stands for the pod needs none of the agent's privileges.
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	Expect(h.api.Create(ctx, pod)).To(Succeed())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "drayage-agent"}}
	Expect(h.api.SubResource("token").Create(ctx, account, request)).To(Succeed())
	config, _ := h.identity("agent-"+node, rest.Config{BearerToken: request.Status.Token}, pki.Identity{})
	h.agent = config
	agent, err := client.New(config, client.Options{Scheme: scheme.New()})
	Expect(err).NotTo(HaveOccurred())
	return agent
}

// serveAs asks for a serving certificate of a node.
func serveAs(ctx context.Context, as client.Client, name, node string) *certificatesv1.CertificateSigningRequest {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: dcorev1.NodeUserPrefix + node, Organization: []string{dcorev1.NodesGroup}}, DNSNames: []string{node},
	}, key)
	Expect(err).NotTo(HaveOccurred())
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}
	csr.Spec = certificatesv1.CertificateSigningRequestSpec{
		SignerName: join.ServingSigner, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
	}
	Expect(as.Create(ctx, csr)).To(Succeed())
	return csr
}

// agentOf proves what the agent of a node may do, as a pod of the host.
func agentOf(ctx context.Context, h *host, node string) {
	GinkgoHelper()
	agent := h.asAgent(ctx, node)

	By("it gets a serving certificate of its node, from the authority that managers trust")
	csr := serveAs(ctx, agent, "own", node)
	Eventually(func() []byte {
		Expect(h.api.Get(ctx, client.ObjectKeyFromObject(csr), csr)).To(Succeed())
		return csr.Status.Certificate
	}).ShouldNot(BeEmpty())
	told := &corev1.ConfigMap{}
	Expect(h.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "drayage-ca"}, told)).To(Succeed())
	pool, err := certutil.NewPoolFromBytes([]byte(told.Data["ca.crt"]))
	Expect(err).NotTo(HaveOccurred())
	certificates, err := certutil.ParseCertsPEM(csr.Status.Certificate)
	Expect(err).NotTo(HaveOccurred())
	_, err = certificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: node})
	Expect(err).NotTo(HaveOccurred())

	By("it gets none of another node, nor of a manager")
	for name, other := range map[string]string{"foreign": "n2", "manager": "drayage-webhooks." + namespace + ".svc"} {
		csr := serveAs(ctx, agent, name, other)
		Eventually(func() []certificatesv1.CertificateSigningRequestCondition {
			Expect(h.api.Get(ctx, client.ObjectKeyFromObject(csr), csr)).To(Succeed())
			return csr.Status.Conditions
		}).Should(ContainElement(HaveField("Type", certificatesv1.CertificateDenied)))
		Expect(csr.Status.Certificate).To(BeEmpty())
	}

	By("it reads through the broker what its own pods refer to")
	Expect(h.rawStream(ctx, h.agent, "/apis/subresources.drayage.dev/v1alpha1/nodes/"+node+"/podobjects")).To(Succeed())
	err = h.rawStream(ctx, h.agent, "/apis/subresources.drayage.dev/v1alpha1/nodes/n2/podobjects")
	Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
	secrets := &corev1.SecretList{}
	Expect(apierrors.IsForbidden(agent.List(ctx, secrets))).To(BeTrue())

	By("it writes its own Node and no other")
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"example.com/a":"b"}}}`))
	Expect(agent.Patch(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, patch)).To(Succeed())
	Expect(h.api.Create(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})).To(Succeed())
	Expect(apierrors.IsForbidden(agent.Patch(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, patch))).To(BeTrue())
	Expect(h.api.Delete(ctx, &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})).To(Succeed())
}

// rawStream opens a stream and closes it.
func (h *host) rawStream(ctx context.Context, config *rest.Config, path string) error {
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	raw, err := rest.UnversionedRESTClientForConfigAndClient(withCodec(rest.CopyConfig(config)), httpClient)
	if err != nil {
		return err
	}
	stream, err := raw.Get().AbsPath(path).Stream(ctx)
	if err != nil {
		body, _ := raw.Get().AbsPath(path).DoRaw(ctx)
		GinkgoWriter.Printf("%v: %s\n", err, body)
		return err
	}
	return stream.Close()
}
