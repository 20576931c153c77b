package webhooks_test

import (
	"context"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

func TestWebhooks(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "webhooks")
}

var (
	cluster  *env.Env
	api      client.WithWatch
	warnings = &recorder{}
)

var _ = BeforeSuite(func() {
	var err error
	cluster, err = env.Start(context.Background(), env.WithAdmission(controlplane.AdmissionPlugin{Name: webhooks.PluginName, New: webhooks.NewPlugin}))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(cluster.Stop)
	config := rest.CopyConfig(cluster.Config)
	config.WarningHandler = warnings
	api, err = client.NewWithWatch(config, client.Options{Scheme: scheme.New()})
	Expect(err).NotTo(HaveOccurred())
})

// newNamespace makes a namespace of its own for a spec.
func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "admission-"}}
	Expect(api.Create(ctx, namespace)).To(Succeed())
	// Admission waits a second and a half for the account that pods run as, and refuses them after that.
	Eventually(func() error {
		return api.Get(ctx, client.ObjectKey{Namespace: namespace.Name, Name: "default"}, &corev1.ServiceAccount{})
	}).Should(Succeed())
	return namespace.Name
}

// object parses a manifest and puts it into the namespace.
func object(namespace, manifest string) *unstructured.Unstructured {
	GinkgoHelper()
	u := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal([]byte(manifest), &u.Object)).To(Succeed())
	u.SetNamespace(namespace)
	return u
}

func quantity(text string) resource.Quantity { return resource.MustParse(text) }

// recorder keeps the API server's warnings.
type recorder struct {
	lock sync.Mutex
	list []string
}

func (r *recorder) HandleWarningHeader(_ int, _ string, text string) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.list = append(r.list, text)
}

func (r *recorder) take() []string {
	r.lock.Lock()
	defer r.lock.Unlock()
	list := r.list
	r.list = nil
	return list
}
