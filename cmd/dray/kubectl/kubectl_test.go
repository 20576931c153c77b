package kubectl_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/env"
)

var _ = Describe("dray kubectl", func() {
	It("is kubectl, for which pods are Drayage's", func(ctx context.Context) {
		e, err := env.Start(context.WithoutCancel(ctx))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		admin, err := e.Client()
		Expect(err).NotTo(HaveOccurred())
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		pod.Spec.Containers = []corev1.Container{{Name: "web", Image: "web:1"}}
		Expect(admin.Create(ctx, pod)).To(Succeed())

		GinkgoT().Setenv("HOME", GinkgoT().TempDir())
		kube := func(args ...string) string {
			GinkgoHelper()
			// How kubectl reaches the server is its own business: flags are handed on as they are.
			command := exec.CommandContext(ctx, os.Args[0], append([]string{
				"--server", e.Config.Host, "--certificate-authority", e.Config.CAFile,
				"--client-certificate", e.Config.CertFile, "--client-key", e.Config.KeyFile,
			}, args...)...)
			command.Env = append(os.Environ(), asKubectl+"=yes")
			out, err := command.CombinedOutput()
			Expect(err).NotTo(HaveOccurred(), string(out))
			return string(out)
		}
		Expect(kube("get", "pods", "-o", "name")).To(Equal("pod.core.drayage.dev/web\n"))
		Expect(kube("get", "pods")).To(MatchRegexp(`(?m)^NAME +READY +STATUS +RESTARTS +AGE\nweb +Pending +0 +`))
		manifest := filepath.Join(GinkgoT().TempDir(), "config.yaml")
		Expect(os.WriteFile(manifest, []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\n"), 0o600)).To(Succeed())
		Expect(kube("apply", "-f", manifest)).To(Equal("configmap/config created\n"))
		Expect(kube("delete", "configmap", "config")).To(ContainSubstring(`configmap "config" deleted`))
	})
})
