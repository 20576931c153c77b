package pki_test

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	certutil "k8s.io/client-go/util/cert"

	"drayage.dev/controlplane/pki"
)

var _ = Describe("the certificates of a control plane", func() {
	var config pki.Config

	BeforeEach(func() {
		config = pki.Config{
			Dir: GinkgoT().TempDir(), DNSNames: []string{"kubernetes"}, IPs: []net.IP{net.IPv4(10, 96, 0, 1)},
			Clients: map[string]pki.Identity{"admin": {User: "admin", Groups: []string{"system:masters"}}},
		}
	})

	read := func(name string) []byte {
		GinkgoHelper()
		data, err := os.ReadFile(filepath.Join(config.Dir, name))
		Expect(err).NotTo(HaveOccurred())
		return data
	}

	It("are made once, with keys for nobody else's eyes", func() {
		_, err := pki.Ensure(config)
		Expect(err).NotTo(HaveOccurred())
		before := map[string]string{}
		for _, name := range []string{"ca.crt", "ca.key", "apiserver.crt", "apiserver.key", "sa.key", "admin.crt", "admin.key"} {
			before[name] = string(read(name))
			if filepath.Ext(name) == ".key" {
				info, err := os.Stat(filepath.Join(config.Dir, name))
				Expect(err).NotTo(HaveOccurred())
				Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)), name)
			}
		}
		_, err = pki.Ensure(config)
		Expect(err).NotTo(HaveOccurred())
		for name, content := range before {
			Expect(string(read(name))).To(Equal(content), name)
		}
		entries, err := os.ReadDir(config.Dir)
		Expect(err).NotTo(HaveOccurred())
		Expect(entries).To(HaveLen(len(before)), "nothing else is left")
	})

	It("verify against the authority for their names, and show it", func() {
		_, err := pki.Ensure(config)
		Expect(err).NotTo(HaveOccurred())
		serving, err := certutil.ParseCertsPEM(read("apiserver.crt"))
		Expect(err).NotTo(HaveOccurred())
		Expect(serving).To(HaveLen(2))
		roots, err := certutil.NewPool(filepath.Join(config.Dir, "ca.crt"))
		Expect(err).NotTo(HaveOccurred())
		for _, name := range []string{"kubernetes", "10.96.0.1"} {
			_, err = serving[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(serving[1].IsCA).To(BeTrue())
	})

	It("are renewed when a third of their life is left, when names are missing, and when a crash cut them", func() {
		certs, err := pki.Ensure(config)
		Expect(err).NotTo(HaveOccurred())
		Expect(certs.Renew(time.Now().Add(200 * 24 * time.Hour))).To(BeEmpty())
		Expect(certs.Renew(time.Now().Add(250 * 24 * time.Hour))).To(ConsistOf("apiserver", "admin"))

		config.DNSNames = append(config.DNSNames, "api.example.com")
		before := read("admin.crt")
		certs, err = pki.Ensure(config)
		Expect(err).NotTo(HaveOccurred())
		Expect(read("admin.crt")).To(Equal(before))
		serving, err := certutil.ParseCertsPEM(read("apiserver.crt"))
		Expect(err).NotTo(HaveOccurred())
		Expect(serving[0].DNSNames).To(ContainElement("api.example.com"))

		Expect(os.WriteFile(filepath.Join(config.Dir, "admin.key"), before[:20], 0o600)).To(Succeed())
		Expect(certs.Renew(time.Now())).To(ConsistOf("admin"))
	})

	It("do not replace half an authority", func() {
		_, err := pki.Ensure(config)
		Expect(err).NotTo(HaveOccurred())
		Expect(os.Remove(filepath.Join(config.Dir, "ca.key"))).To(Succeed())
		_, err = pki.Ensure(config)
		Expect(err).To(MatchError(ContainSubstring("restore it from a backup")))
	})
})
