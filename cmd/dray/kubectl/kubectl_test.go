package kubectl_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/cmd/dray/kubectl"
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
			var out bytes.Buffer
			command := kubectl.NewCommand(genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &out, ErrOut: &out})
			// How kubectl reaches the server is its own business: flags are handed on as they are.
			command.SetArgs(append([]string{
				"--server", e.Config.Host, "--certificate-authority", e.Config.CAFile,
				"--client-certificate", e.Config.CertFile, "--client-key", e.Config.KeyFile,
			}, args...))
			Expect(command.Execute()).To(Succeed())
			return out.String()
		}
		Expect(kube("get", "pods", "-o", "name")).To(Equal("pod.core.drayage.dev/web\n"))
		Expect(kube("get", "pods")).To(MatchRegexp(`(?m)^NAME +READY +STATUS +RESTARTS +AGE\nweb +Pending +0 +`))
		manifest := filepath.Join(GinkgoT().TempDir(), "config.yaml")
		Expect(os.WriteFile(manifest, []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\n"), 0o600)).To(Succeed())
		Expect(kube("apply", "-f", manifest)).To(Equal("configmap/config created\n"))
		Expect(kube("delete", "configmap", "config")).To(ContainSubstring(`configmap "config" deleted`))
	})
})
