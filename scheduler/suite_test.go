package scheduler_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/controlplane"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

func TestScheduler(t *testing.T) {
	if dir := os.Getenv(crashVariable); dir != "" {
		if err := crash(dir); err != nil {
			t.Fatal(err)
		}
		return
	}
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "scheduler")
}

var (
	// admin acts as a user, as a workload controller and as the nodes.
	admin client.WithWatch
	// identity is the scheduler's own, so that specs meet its RBAC role.
	identity     *rest.Config
	identityFile string
)

var _ = BeforeSuite(func(ctx context.Context) {
	// With admission: it decides on every write that the scheduler makes.
	e, err := env.Start(context.WithoutCancel(ctx), env.WithAdmission(controlplane.AdmissionPlugin{
		Name: webhooks.PluginName, New: webhooks.NewPlugin,
	}))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
	admin, err = e.Client()
	Expect(err).NotTo(HaveOccurred())
	// Admission waits a second and a half for the account that pods run as, and refuses them after that.
	Eventually(func() error {
		return admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "default"}, &corev1.ServiceAccount{})
	}).Should(Succeed())
	identityFile = filepath.Join(e.DataDir, "server/kubeconfig/scheduler.conf")
	identity, err = clientcmd.BuildConfigFromFlags("", identityFile)
	Expect(err).NotTo(HaveOccurred())
})
