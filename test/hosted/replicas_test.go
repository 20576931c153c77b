//go:build cluster

package hosted_test

import (
	"context"
	"strconv"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

// acknowledgedByAll proves that a node may report to any manager, and ask any. The node's agent has h.agent.
func acknowledgedByAll(ctx context.Context, h *host, node string, managers []replica) {
	GinkgoHelper()
	now := metav1.NowMicro()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: node}}
	lease.Spec.RenewTime = &now
	Expect(h.api.Create(ctx, lease)).To(Succeed())
	object := &dcorev1.Node{}
	Expect(h.api.Get(ctx, client.ObjectKey{Name: node}, object)).To(Succeed())
	before := object.DeepCopy()
	object.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	Expect(h.api.Status().Patch(ctx, object, client.MergeFrom(before))).To(Succeed())

	at := func(manager replica) *rest.RESTClient {
		config := withCodec(rest.CopyConfig(h.agent))
		config.Host = "https://" + manager.ip + ":" + strconv.Itoa(apiPort)
		config.TLSClientConfig = rest.TLSClientConfig{Insecure: true}
		httpClient, err := rest.HTTPClientFor(config)
		Expect(err).NotTo(HaveOccurred())
		c, err := rest.UnversionedRESTClientForConfigAndClient(config, httpClient)
		Expect(err).NotTo(HaveOccurred())
		return c
	}
	path := "/apis/subresources.drayage.dev/v1alpha1/nodes/" + node + "/applied"
	ask := func(manager replica, revision int, wait string) error {
		return at(manager).Get().AbsPath(path).Param("revision", strconv.Itoa(revision)).Param("wait", wait).Do(ctx).Error()
	}
	for i := range managers {
		to, other := managers[i], managers[(i+1)%len(managers)]
		revision := 100 + i
		Eventually(func() error { return ask(other, revision, "50ms") }).Should(MatchError(ContainSubstring("not acknowledged by " + node)))
		report := []byte(`{"revision":` + strconv.Itoa(revision) + `}`)
		Expect(at(to).Post().AbsPath(path).Body(report).Do(ctx).Error()).To(Succeed())
		Expect(ask(other, revision, "1s")).To(Succeed(), "asked of %s, reported to %s", other.Name, to.Name)
	}
}
