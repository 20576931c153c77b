package gitops_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

func service(namespace, name string, change ...func(*corev1.ServiceSpec)) *dcorev1.Service {
	s := &dcorev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}},
		},
	}
	for _, change := range change {
		change(&s.Spec)
	}
	return s
}

// at asks for an address, so that every run has the same.
func at(address string) func(*corev1.ServiceSpec) {
	return func(spec *corev1.ServiceSpec) { spec.ClusterIP = address }
}

func balancer(nodePort int32) func(*corev1.ServiceSpec) {
	return func(spec *corev1.ServiceSpec) {
		spec.Type, spec.Ports[0].NodePort = corev1.ServiceTypeLoadBalancer, nodePort
	}
}

// settled creates a service and waits until the controller has said how it is doing.
func settled(ctx context.Context, s *dcorev1.Service, ready metav1.ConditionStatus) *dcorev1.Service {
	GinkgoHelper()
	create(ctx, s)
	Eventually(reading(s)).WithContext(ctx).Should(HaveField("Status.Conditions",
		ContainElement(And(HaveField("Type", dcorev1.ServiceReady), HaveField("Status", ready)))))
	return s
}

var servicePhases = map[string]makePhase{
	"service-new": func(ctx context.Context, namespace, name string) client.Object {
		return created(ctx, service(namespace, name))
	},
	"service-ready": func(ctx context.Context, namespace, name string) client.Object {
		return settled(ctx, service(namespace, name, at("10.96.0.20")), metav1.ConditionTrue)
	},
	"service-headless": func(ctx context.Context, namespace, name string) client.Object {
		return settled(ctx, service(namespace, name, at(corev1.ClusterIPNone)), metav1.ConditionTrue)
	},
	"service-external-name": func(ctx context.Context, namespace, name string) client.Object {
		return settled(ctx, service(namespace, name, func(spec *corev1.ServiceSpec) {
			*spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.com"}
		}), metav1.ConditionTrue)
	},
	"service-address-pending": func(ctx context.Context, namespace, name string) client.Object {
		return settled(ctx, service(namespace, name, at("10.96.0.21"), balancer(30021)), metav1.ConditionFalse)
	},
	"service-balanced": func(ctx context.Context, namespace, name string) client.Object {
		newNode(ctx, name, corev1.ConditionTrue)
		renewLease(name)
		return settled(ctx, service(namespace, name, at("10.96.0.22"), balancer(30022)), metav1.ConditionTrue)
	},
	"service-address-taken": func(ctx context.Context, namespace, name string) client.Object {
		settled(ctx, service(namespace, "holder", at("10.96.0.23")), metav1.ConditionTrue)
		return settled(ctx, service(namespace, name, at("10.96.0.23")), metav1.ConditionFalse)
	},
	"service-terminating": func(ctx context.Context, namespace, name string) client.Object {
		return deleted(ctx, settled(ctx, service(namespace, name, at("10.96.0.24")), metav1.ConditionTrue))
	},
}
