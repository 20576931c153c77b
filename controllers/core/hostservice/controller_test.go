package hostservice

import (
	"context"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/scheme"
)

func TestHostService(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controllers/core/hostservice")
}

// The embedded API server of other specs has no core Services, so the API is a fake one here.
var _ = Describe("a Service that the cluster has, too", func() {
	It("says so while it lasts", func(ctx context.Context) {
		key := client.ObjectKey{Namespace: "shop", Name: "db"}
		meta := metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}
		kinds := scheme.New()
		Expect(corev1.AddToScheme(kinds)).To(Succeed())
		ours, theirs := &dcorev1.Service{ObjectMeta: meta}, &corev1.Service{ObjectMeta: meta}
		ours.Status.Conditions = []metav1.Condition{{Type: dcorev1.ServiceReady, Status: metav1.ConditionTrue, Reason: dcorev1.ServiceAllocated}}
		api := fake.NewClientBuilder().WithScheme(kinds).WithObjects(ours).WithStatusSubresource(ours).Build()
		events := record.NewFakeRecorder(5)
		r := &reconciler{client: api, recorder: events}
		conditions := func() []metav1.Condition {
			_, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: key})
			Expect(err).NotTo(HaveOccurred())
			found := &dcorev1.Service{}
			Expect(api.Get(ctx, key, found)).To(Succeed())
			return found.Status.Conditions
		}

		Expect(conditions()).To(ConsistOf(HaveField("Type", dcorev1.ServiceReady)))
		Expect(api.Create(ctx, theirs)).To(Succeed())
		Expect(conditions()).To(ConsistOf(HaveField("Type", dcorev1.ServiceReady), And(
			HaveField("Type", dcorev1.ServiceHidesHostService), HaveField("Status", metav1.ConditionTrue), HaveField("Message", ContainSubstring("shop/db")))))
		Expect(conditions()).To(HaveLen(2), "a second time")
		Expect(events.Events).To(Receive(HavePrefix("Warning SameName the cluster has a Service shop/db, too")))
		Expect(events.Events).NotTo(Receive(), "told once")
		Expect(api.Delete(ctx, theirs)).To(Succeed())
		Expect(conditions()).To(ConsistOf(HaveField("Type", dcorev1.ServiceReady)))
	})
})
