package app

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

var _ = Describe("the ranges of pods and services", func() {
	cluster := fake.NewClientset(
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12", "fd00:1::/112"}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.200.0.1"}}},
		&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.7.0/24", "fd00:2::/64"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "a"}, {Type: corev1.NodeInternalIP, Address: "192.168.5.4"}}},
		},
	)

	DescribeTable("that overlap with the cluster's are refused", func(ctx SpecContext, pods, services, message string) {
		Expect(checkRanges(ctx, cluster, pods, services)).To(MatchError(message))
	},
		Entry("pods with pods", "10.244.0.0/16", "10.219.0.0/16",
			"the pod range 10.244.0.0/16 overlaps with 10.244.7.0/24, the pod range of the cluster's node a; choose another with --pod-cidr (the chart's value network.podCIDR)"),
		Entry("services with services", "10.218.0.0/16", "10.100.0.0/16",
			"the service range 10.100.0.0/16 overlaps with 10.96.0.0/12, the cluster's service range kubernetes; choose another with --service-cidr (the chart's value network.serviceCIDR)"),
		Entry("services with what a cluster without ServiceCIDRs shows", "10.218.0.0/16", "10.200.0.0/16",
			"the service range 10.200.0.0/16 overlaps with 10.200.0.1, the address of the cluster's service kubernetes; choose another with --service-cidr (the chart's value network.serviceCIDR)"),
		Entry("pods with nodes", "192.168.0.0/16", "10.219.0.0/16",
			"the pod range 192.168.0.0/16 overlaps with 192.168.5.4, an address of the cluster's node a; choose another with --pod-cidr (the chart's value network.podCIDR)"),
		Entry("the second family", "10.218.0.0/16,fd00:2::/48", "10.219.0.0/16",
			"the pod range fd00:2::/48 overlaps with fd00:2::/64, the pod range of the cluster's node a; choose another with --pod-cidr (the chart's value network.podCIDR)"),
	)

	It("that are their own are taken", func(ctx SpecContext) {
		Expect(checkRanges(ctx, cluster, "10.218.0.0/16,fd00:8::/48", "10.219.0.0/16")).To(Succeed())
	})
})
