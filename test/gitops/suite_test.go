package gitops_test

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/cmd/dray-manager/app"
	"drayage.dev/controlplane"
	"drayage.dev/scheduler"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

func TestGitOps(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "gitops")
}

var (
	// api reaches the API server as an administrator, past every cache.
	api client.WithWatch
	// testEnv is the suite's control plane, with admission, controllers and scheduler.
	testEnv *env.Env
)

// nodeGrace is how long a node may be silent in the suite's cluster.
const nodeGrace = 6 * time.Second

var _ = BeforeSuite(func(ctx context.Context) {
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	var err error
	testEnv, err = env.Start(context.WithoutCancel(ctx), env.WithAdmission(controlplane.AdmissionPlugin{
		Name: webhooks.PluginName, New: webhooks.NewPlugin,
	}))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(testEnv.Stop()).To(Succeed()) })
	api, err = testEnv.Client()
	Expect(err).NotTo(HaveOccurred())
	startManager()
	identity, err := testEnv.As("drayage:scheduler")
	Expect(err).NotTo(HaveOccurred())
	start(func(ctx context.Context) error {
		return scheduler.Run(ctx, scheduler.Config{RESTConfig: identity, AgentPatience: 50 * time.Millisecond})
	})
})

// startManager runs the controllers under their own identity until the suite ends or stop is called.
func startManager() (stop func()) {
	GinkgoHelper()
	cfg := app.DefaultConfig()
	cfg.LeaderElection = false
	cfg.Controllers.NodeGrace = nodeGrace
	// Pods of specs are bound to a machine that the API never knows: none of them is to be collected.
	cfg.Controllers.NodeQuarantine = time.Hour
	var err error
	cfg.RESTConfig, err = testEnv.As("drayage:manager")
	Expect(err).NotTo(HaveOccurred())
	return start(func(ctx context.Context) error { return app.Run(ctx, cfg) })
}

// start runs fn until the suite or spec that started it ends, or stop is called.
func start(fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = fn(ctx)
	}()
	stop = func() {
		cancel()
		Eventually(done, 2*time.Minute).Should(BeClosed())
		Expect(err).NotTo(HaveOccurred())
	}
	DeferCleanup(func() { stop() })
	return stop
}

func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "gitops-"}}
	Expect(api.Create(ctx, namespace)).To(Succeed())
	// Admission waits a second and a half for the account that pods run as, and refuses them after that.
	Eventually(func() error {
		return api.Get(ctx, client.ObjectKey{Namespace: namespace.Name, Name: "default"}, &corev1.ServiceAccount{})
	}).Should(Succeed())
	return namespace.Name
}

// edit changes an object by a merge patch upon its newest state.
func edit[T client.Object](ctx context.Context, object T, change func(T)) {
	GinkgoHelper()
	Expect(api.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
	base := object.DeepCopyObject().(client.Object)
	change(object)
	Expect(api.Patch(ctx, object, client.MergeFrom(base))).To(Succeed())
}

// reading returns a function that reads an object anew, for Eventually.
func reading[T client.Object](object T) func(context.Context) (T, error) {
	return func(ctx context.Context) (T, error) {
		err := api.Get(ctx, client.ObjectKeyFromObject(object), object)
		return object, err
	}
}
