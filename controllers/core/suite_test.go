package core_test

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/controllers/core"
	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

func TestCore(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controllers/core")
}

var (
	// api reaches the API server as an administrator, past every cache.
	api client.WithWatch
	// testEnv is the control plane of the suite.
	testEnv *env.Env
)

// The ranges of the suite's clusters: small, so that specs can use them up.
const (
	serviceCIDR = "10.96.0.0/26"
	podCIDR     = "10.244.0.0/20"
)

// nodeGrace is how long a node's lease may rest in the suite's clusters: long enough for a busy machine to renew it,
// and to reach the API within a quarter of it, without which nobody is gone.
const nodeGrace = 6 * time.Second

// quarantine is how long a node must be missing there.
const quarantine = 4 * time.Second

var _ = BeforeSuite(func(ctx context.Context) {
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	SetDefaultConsistentlyDuration(500 * time.Millisecond)
	log.SetLogger(GinkgoLogr)

	var err error
	testEnv, err = env.Start(context.WithoutCancel(ctx), env.WithAdmission(controlplane.AdmissionPlugin{
		Name: "Drayage", New: webhooks.NewPlugin,
	}))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(testEnv.Stop()).To(Succeed()) })
	api, err = testEnv.Client()
	Expect(err).NotTo(HaveOccurred())
	startManager(config())
})

func config() core.Config {
	return core.Config{ServiceCIDR: serviceCIDR, PodCIDR: podCIDR, NodeGrace: nodeGrace, NodeQuarantine: quarantine}
}

// startManager runs the controllers under the manager's own identity until the suite or spec ends, or
// stop is called: what its role lacks, a spec finds.
func startManager(cfg core.Config) (stop func()) {
	GinkgoHelper()
	restConfig, err := testEnv.As("drayage:manager")
	Expect(err).NotTo(HaveOccurred())
	restConfig.QPS = -1
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:     scheme.New(),
		Cache:      cache.Options{DefaultTransform: cache.TransformStripManagedFields(), ByObject: core.CacheByObject()},
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: ctrlconfig.Controller{SkipNameValidation: ptr.To(true), UsePriorityQueue: ptr.To(false)},
	})
	Expect(err).NotTo(HaveOccurred())
	Expect(core.Add(mgr, cfg)).To(Succeed())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	var stopped bool
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			Eventually(done).Should(Receive(BeNil()))
		}
	}
	DeferCleanup(func() { stop() })
	return stop
}

func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "core-"}}
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

// editStatus is edit for the status.
func editStatus[T client.Object](ctx context.Context, object T, change func(T)) {
	GinkgoHelper()
	Expect(api.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
	base := object.DeepCopyObject().(client.Object)
	change(object)
	Expect(api.Status().Patch(ctx, object, client.MergeFrom(base))).To(Succeed())
}

// reading returns a function that reads an object anew, for Eventually.
func reading[T client.Object](object T) func(context.Context) (T, error) {
	return func(ctx context.Context) (T, error) {
		err := api.Get(ctx, client.ObjectKeyFromObject(object), object)
		return object, err
	}
}

// events lists the reasons and messages of a namespace's events.
func events(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	var list corev1.EventList
	Expect(api.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	var texts []string
	for _, event := range list.Items {
		texts = append(texts, event.Reason+": "+event.Message)
	}
	return texts
}

// addNode makes a node with an address, a Ready condition and a lease that is renewed until the spec's end,
// when the node is deleted.
func addNode(ctx context.Context, name, address string, ready corev1.ConditionStatus) *dcorev1.Node {
	GinkgoHelper()
	node, _ := addMortalNode(ctx, name, address, ready)
	return node
}

// addMortalNode is addNode; die stops the renewal of the lease.
func addMortalNode(ctx context.Context, name, address string, ready corev1.ConditionStatus) (node *dcorev1.Node, die func()) {
	GinkgoHelper()
	node = &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	Expect(api.Create(ctx, node)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { _ = api.Delete(ctx, node) })
	editStatus(ctx, node, func(n *dcorev1.Node) {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
		setNodeReady(n, ready)
	})
	return node, renewLease(name)
}

func setNodeReady(n *dcorev1.Node, ready corev1.ConditionStatus) {
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "AgentReady",
		LastTransitionTime: metav1.Now(), LastHeartbeatTime: metav1.Now()}}
}

// renewLease renews a node's lease until the spec's end, or until stop is called.
func renewLease(node string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: node}}
		for ctx.Err() == nil {
			_, _ = controllerutil.CreateOrUpdate(ctx, api, lease, func() error {
				lease.Spec.HolderIdentity, lease.Spec.RenewTime = &node, ptr.To(metav1.NowMicro())
				return nil
			})
			select {
			case <-ctx.Done():
			case <-time.After(nodeGrace / 24):
			}
		}
	}()
	stop = func() { cancel(); <-done }
	DeferCleanup(func() { stop() })
	return stop
}
