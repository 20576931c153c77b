package nodecerts

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controlplane/join"
)

// change makes a good request another one.
type change func(*certificatesv1.CertificateSigningRequestSpec, *x509.CertificateRequest)

var _ = Describe("what a node may have", func() {
	const agents = "system:serviceaccount:drayage-system:drayage-agent"
	clientAsk := func(changes ...change) (*ask, error) {
		spec := certificatesv1.CertificateSigningRequestSpec{
			SignerName: join.ClientSigner, Username: "drayage:node:n1", Groups: []string{dcorev1.NodesGroup, "system:authenticated"},
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		}
		request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "drayage:node:n1", Organization: []string{dcorev1.NodesGroup}}}
		for _, change := range changes {
			change(&spec, request)
		}
		ask, err := newAsk(spec, request)
		if err == nil {
			err = ask.mayAsk(agents)
		}
		return ask, err
	}
	serving := func(spec *certificatesv1.CertificateSigningRequestSpec, request *x509.CertificateRequest) {
		spec.SignerName = join.ServingSigner
		spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
		request.IPAddresses, request.DNSNames = []net.IP{net.IPv4(192, 0, 2, 1)}, []string{"n1"}
	}
	asker := func(user string, groups ...string) change {
		return func(spec *certificatesv1.CertificateSigningRequestSpec, _ *x509.CertificateRequest) {
			spec.Username, spec.Groups = user, groups
		}
	}
	subject := func(name string, organizations ...string) change {
		return func(_ *certificatesv1.CertificateSigningRequestSpec, request *x509.CertificateRequest) {
			request.Subject.CommonName, request.Subject.Organization = name, organizations
		}
	}
	usage := func(usages ...certificatesv1.KeyUsage) change {
		return func(spec *certificatesv1.CertificateSigningRequestSpec, _ *x509.CertificateRequest) {
			spec.Usages = usages
		}
	}
	agentOn := func(account, node string) change {
		return func(spec *certificatesv1.CertificateSigningRequestSpec, _ *x509.CertificateRequest) {
			spec.Username, spec.Groups = account, []string{"system:serviceaccounts", "system:authenticated"}
			if node != "" {
				spec.Extra = map[string]certificatesv1.ExtraValue{"authentication.kubernetes.io/node-name": {node}}
			}
		}
	}
	joining := asker("system:bootstrap:abcdef", "system:bootstrappers", join.BootstrappersGroup)

	DescribeTable("grants", func(changes ...change) {
		_, err := clientAsk(changes...)
		Expect(err).NotTo(HaveOccurred())
	},
		Entry("a node its own client certificate"),
		Entry("a node its own serving certificate", change(serving)),
		Entry("a joining machine a client certificate", joining),
		Entry("an agent that is a pod its serving certificate", change(serving), agentOn(agents, "n1")),
	)

	DescribeTable("refuses", func(message string, changes ...change) {
		_, err := clientAsk(changes...)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("another node's certificate", "drayage:node:n2 may not ask", asker("drayage:node:n2", dcorev1.NodesGroup)),
		Entry("a user of a node's name outside of the group", "may not ask", asker("drayage:node:n1", "system:authenticated")),
		Entry("a joining machine's serving certificate", "may not ask", change(serving), joining),
		Entry("an agent that is a pod a client certificate", "may not ask", agentOn(agents, "n1")),
		Entry("an agent on another node", "may not ask", change(serving), agentOn(agents, "n2")),
		Entry("an agent whose token names no node", "may not ask", change(serving), agentOn(agents, "")),
		Entry("another service account on the node", "may not ask", change(serving), agentOn("system:serviceaccount:shop:drayage-agent", "n1")),
		Entry("a bootstrap token of other tools", "may not ask", asker("system:bootstrap:abcdef", "system:bootstrappers")),
		Entry("another subject", "is not drayage:node:", subject("system:admin", dcorev1.NodesGroup)),
		Entry("a node without name", "is not drayage:node:", subject("drayage:node:", dcorev1.NodesGroup)),
		Entry("a name that no node can have", "is not drayage:node:", subject("drayage:node:A B", dcorev1.NodesGroup)),
		Entry("a further organization", "is not drayage:nodes alone", subject("drayage:node:n1", dcorev1.NodesGroup, "system:masters")),
		Entry("no organization", "is not drayage:nodes alone", subject("drayage:node:n1")),
		Entry("the wrong purpose", `lacks the usage "client auth"`, usage(certificatesv1.UsageServerAuth)),
		Entry("two purposes", `its usage "server auth" is not for nodes`, usage(certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth)),
		Entry("an authority", `its usage "cert sign" is not for nodes`, usage(certificatesv1.UsageClientAuth, certificatesv1.UsageCertSign)),
		Entry("names in a client certificate", "has no names or addresses", change(func(_ *certificatesv1.CertificateSigningRequestSpec, request *x509.CertificateRequest) {
			request.DNSNames = []string{"kubernetes"}
		})),
		Entry("a serving certificate without names", "needs names or addresses", change(serving), change(func(_ *certificatesv1.CertificateSigningRequestSpec, request *x509.CertificateRequest) {
			request.IPAddresses, request.DNSNames = nil, nil
		})),
		Entry("URIs", "e-mail addresses or URIs", change(func(_ *certificatesv1.CertificateSigningRequestSpec, request *x509.CertificateRequest) {
			request.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster"}}
		})),
	)

	It("is a serving certificate for what its Node shows, and its own name", func() {
		ask, err := clientAsk(serving)
		Expect(err).NotTo(HaveOccurred())
		Expect(ask.foreign(nil)).To(Equal("192.0.2.1"))
		shown := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
		Expect(ask.foreign(shown)).To(BeEmpty())
		ask.request.DNSNames = append(ask.request.DNSNames, "kubernetes")
		Expect(ask.foreign(shown)).To(Equal("kubernetes"))
		Expect(ask.impersonates([]string{"10.96.0.1", "kubernetes"})).To(Equal("kubernetes"))
		Expect(ask.impersonates([]string{"192.0.2.1"})).To(Equal("192.0.2.1"))
		Expect(ask.impersonates([]string{"10.96.0.1"})).To(BeEmpty())
	})
})
