package gitops_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	dcorev1 "drayage.dev/apis/core/v1"
)

// newNode makes a node of which an agent has reported this once. It has no room for pods.
func newNode(ctx context.Context, name string, ready corev1.ConditionStatus, change ...func(*dcorev1.Node)) *dcorev1.Node {
	GinkgoHelper()
	node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: "10.244.9.0/24", PodCIDRs: []string{"10.244.9.0/24"}}}
	for _, change := range change {
		change(node)
	}
	Expect(api.Create(ctx, node)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		Expect(client.IgnoreNotFound(api.Delete(ctx, node))).To(Succeed())
		Eventually(func() error { return api.Get(ctx, client.ObjectKeyFromObject(node), node) }).Should(MatchError(apierrors.IsNotFound, "IsNotFound"))
	})
	if ready != "" {
		reportNode(ctx, node, ready)
	}
	return node
}

func reportNode(ctx context.Context, node *dcorev1.Node, ready corev1.ConditionStatus) {
	GinkgoHelper()
	Eventually(func() error {
		if err := api.Get(ctx, client.ObjectKeyFromObject(node), node); err != nil {
			return err
		}
		base := node.DeepCopy()
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "AgentReady",
			Message: "as the spec wants it", LastTransitionTime: metav1.Now(), LastHeartbeatTime: metav1.Now()}}
		return api.Status().Patch(ctx, node, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	}).Should(Succeed())
}

// renewLease keeps a node alive until the spec's end.
func renewLease(name string) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: name}}
		for ctx.Err() == nil {
			_, _ = controllerutil.CreateOrUpdate(ctx, api, lease, func() error {
				lease.Spec.HolderIdentity, lease.Spec.RenewTime = &name, ptr.To(metav1.NowMicro())
				return nil
			})
			select {
			case <-ctx.Done():
			case <-time.After(nodeGrace / 24):
			}
		}
	}()
	DeferCleanup(func() { cancel(); <-done })
}

// reported waits until the node controller has taken note.
func reported(ctx context.Context, node *dcorev1.Node, summary string, taints int) client.Object {
	GinkgoHelper()
	Eventually(reading(node)).WithContext(ctx).Should(And(HaveField("Status.Summary.Status", summary), HaveField("Spec.Taints", HaveLen(taints)),
		WithTransform(func(n *dcorev1.Node) bool { return n.Generation == n.Status.ObservedGeneration }, BeTrue())))
	return node
}

var nodePhases = map[string]makePhase{
	"node-new": func(ctx context.Context, _, name string) client.Object {
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		DeferCleanup(func(ctx SpecContext) { Expect(api.Delete(ctx, node)).To(Succeed()) })
		return created(ctx, node)
	},
	"node-not-ready": func(ctx context.Context, _, name string) client.Object {
		renewLease(name)
		return reported(ctx, newNode(ctx, name, corev1.ConditionFalse), "NotReady", 1)
	},
	"node-ready": func(ctx context.Context, _, name string) client.Object {
		renewLease(name)
		return reported(ctx, newNode(ctx, name, corev1.ConditionTrue), "Ready", 0)
	},
	"node-cordoned": func(ctx context.Context, _, name string) client.Object {
		renewLease(name)
		node := newNode(ctx, name, corev1.ConditionTrue)
		edit(ctx, node, func(n *dcorev1.Node) { n.Spec.Unschedulable = true })
		return reported(ctx, node, "Ready,SchedulingDisabled", 1)
	},
	"node-lost": func(ctx context.Context, _, name string) client.Object {
		node := newNode(ctx, name, corev1.ConditionTrue)
		Eventually(reading(node)).WithContext(ctx).Should(HaveField("Status.Conditions", ContainElement(HaveField("Reason", dcorev1.NodeStatusUnknown))))
		return reported(ctx, node, "NotReady", 1)
	},
	"node-terminating": func(ctx context.Context, _, name string) client.Object {
		renewLease(name)
		node := newNode(ctx, name, corev1.ConditionTrue)
		reported(ctx, node, "Ready", 0)
		return deleted(ctx, node)
	},
}
