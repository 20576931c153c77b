package claims

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	dcorev1 "drayage.dev/apis/core/v1"
	dnetworkingv1alpha1 "drayage.dev/apis/networking/v1alpha1"
	"drayage.dev/internal/allocation"
	"drayage.dev/internal/scheme"
)

func TestClaims(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controllers/core/claims")
}

var _ = Describe("sweep", func() {
	It("gives back what owners that are gone have left, and nothing else", func(ctx context.Context) {
		now := time.Now()
		claim := func(port int32, kind, namespace, name string, uid types.UID, age time.Duration) client.Object {
			owner := dnetworkingv1alpha1.AllocationOwner{Kind: kind, Namespace: namespace, Name: name, UID: uid}
			c := allocation.NodePort(port, owner)
			c.UID, c.CreationTimestamp = types.UID(c.Name), metav1.NewTime(now.Add(-age))
			return c
		}
		service := &dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "new"}}
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n"}}
		c := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(service, node,
			claim(1, Service, "shop", "web", "new", time.Hour),
			claim(2, Service, "shop", "web", "", time.Hour),    // made before its owner was stored
			claim(3, Service, "shop", "web", "old", time.Hour), // a former service of that name
			claim(4, Service, "shop", "gone", "g", time.Hour),  //
			claim(5, Service, "shop", "soon", "", time.Second), // its owner is about to be stored
			claim(6, Node, "", "n1", "n", time.Hour),           //
			claim(7, Node, "", "n2", "m", time.Hour),           //
		).Build()
		claims := &Claims{Client: c, Live: c}
		Expect(claims.sweep(ctx, now)).To(Succeed())
		var left dnetworkingv1alpha1.AllocationList
		Expect(c.List(ctx, &left)).To(Succeed())
		values := []string{}
		for _, claim := range left.Items {
			values = append(values, claim.Spec.Value)
		}
		Expect(values).To(ConsistOf("1", "2", "5", "6"))
	})
})

var _ = DescribeTable("TakenError", func(holder dnetworkingv1alpha1.AllocationOwner, text string) {
	Expect(&TakenError{Value: "10.96.0.7", Holder: holder}).To(MatchError(text))
},
	Entry("of a service", dnetworkingv1alpha1.AllocationOwner{Kind: Service, Namespace: "shop", Name: "web"}, "10.96.0.7 is already allocated to Service shop/web"),
	Entry("of a node", dnetworkingv1alpha1.AllocationOwner{Kind: Node, Name: "n1"}, "10.96.0.7 is already allocated to Node n1"),
)
