package client_test

import (
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"drayage.dev/cmd/dray/client"
)

var _ = Describe("the API server", func() {
	var home, dataDir string

	write := func(file, host string) string {
		Expect(os.MkdirAll(filepath.Dir(file), 0o700)).To(Succeed())
		text := []byte("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://" + host + "\"}}]\n" +
			"contexts: [{name: c, context: {cluster: c, namespace: " + host + "}}]\ncurrent-context: c\n")
		Expect(os.WriteFile(file, text, 0o600)).To(Succeed())
		return file
	}
	parse := func(args ...string) *client.Flags {
		f := client.NewFlags()
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		f.AddFlags(set)
		Expect(set.Parse(append(args, "--data-dir", dataDir))).To(Succeed())
		return f
	}
	host := func(f *client.Flags) string {
		config, err := f.ToRESTConfig()
		Expect(err).NotTo(HaveOccurred())
		return config.Host
	}

	BeforeEach(func() {
		home, dataDir = GinkgoT().TempDir(), GinkgoT().TempDir()
		GinkgoT().Setenv("HOME", home)
		GinkgoT().Setenv("KUBECONFIG", "")
		GinkgoT().Setenv("KUBERNETES_SERVICE_HOST", "")
	})

	It("is named by the flag, else by KUBECONFIG, else is this machine's", func() {
		_, err := parse().ToRESTConfig()
		Expect(err).To(MatchError(client.ErrNoServer))

		write(filepath.Join(dataDir, "server/kubeconfig/admin.conf"), "machine")
		Expect(host(parse())).To(Equal("https://machine"))
		GinkgoT().Setenv("KUBECONFIG", write(filepath.Join(home, "mine"), "mine"))
		f := parse()
		Expect(host(f)).To(Equal("https://mine"))
		Expect(f.CurrentNamespace()).To(Equal("mine"))
		f = parse("--kubeconfig", write(filepath.Join(home, "flag"), "flag"), "-n", "other")
		Expect(host(f)).To(Equal("https://flag"))
		Expect(f.CurrentNamespace()).To(Equal("other"))
	})

	It("is not guessed when a named file is missing", func() {
		write(filepath.Join(dataDir, "server/kubeconfig/admin.conf"), "machine")
		_, err := parse("--kubeconfig", "/none").ToRESTConfig()
		Expect(err).To(MatchError(ContainSubstring("/none: no such file")))
		GinkgoT().Setenv("KUBECONFIG", "/none")
		_, err = parse().ToRESTConfig()
		Expect(err).To(MatchError(ContainSubstring(`KUBECONFIG is "/none"`)))
	})
})

var _ = Describe("a name without a group", func() {
	It("means Drayage's resource where there are two", func() {
		core, ours := schema.GroupVersion{Version: "v1"}, schema.GroupVersion{Group: "core.drayage.dev", Version: "v1"}
		both := meta.NewDefaultRESTMapper([]schema.GroupVersion{core, ours})
		for _, version := range []schema.GroupVersion{core, ours} {
			both.Add(version.WithKind("Pod"), meta.RESTScopeNamespace)
		}
		both.Add(core.WithKind("Secret"), meta.RESTScopeNamespace)
		mapper, err := client.PreferDrayage(both)
		Expect(err).NotTo(HaveOccurred())
		for name, want := range map[string]schema.GroupVersionResource{
			"pod": ours.WithResource("pods"), "pods": ours.WithResource("pods"), "po": ours.WithResource("pods"),
			"dpo": ours.WithResource("pods"), "secrets": core.WithResource("secrets"),
		} {
			Expect(mapper.ResourceFor(schema.GroupVersionResource{Resource: name})).To(Equal(want))
		}
		Expect(mapper.KindFor(schema.GroupVersionResource{Resource: "po"})).To(Equal(ours.WithKind("Pod")))
	})
})
