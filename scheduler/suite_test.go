package scheduler_test

import (
	"context"
	"path/filepath"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/controlplane"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

func TestScheduler(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "scheduler")
}

var (
	// admin acts as a user, as a workload controller and as the nodes.
	admin client.Client
	// identity is the scheduler's own, so that specs meet its RBAC role.
	identity *rest.Config
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
	identity, err = clientcmd.BuildConfigFromFlags("", filepath.Join(e.DataDir, "server/kubeconfig/scheduler.conf"))
	Expect(err).NotTo(HaveOccurred())
})
