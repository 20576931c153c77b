package webhooks_test

import (
	"context"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/controlplane"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

func TestWebhooks(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "webhooks")
}

var (
	cluster *env.Env
	api     client.WithWatch
)

var _ = BeforeSuite(func() {
	var err error
	cluster, err = env.Start(context.Background(), env.WithAdmission(controlplane.AdmissionPlugin{Name: webhooks.PluginName, New: webhooks.NewPlugin}))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(cluster.Stop)
	api, err = cluster.Client()
	Expect(err).NotTo(HaveOccurred())
})

// newNamespace makes a namespace of its own for a spec.
func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "admission-"}}
	Expect(api.Create(ctx, namespace)).To(Succeed())
	return namespace.Name
}
