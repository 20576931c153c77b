package controlplane_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("a namespace's quota", Ordered, func() {
	const team = "team"
	var c client.WithWatch

	BeforeAll(func(ctx SpecContext) {
		_, c = start(ctx)
		Expect(c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team}})).To(Succeed())
		// What the namespace is given itself must not come in between.
		Eventually(func() error {
			return c.Get(ctx, client.ObjectKey{Namespace: team, Name: "kube-root-ca.crt"}, &corev1.ConfigMap{})
		}).Should(Succeed())
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "share"}}
		quota.Spec.Hard = corev1.ResourceList{}
		for name, hard := range map[corev1.ResourceName]string{
			"pods": "2", "requests.cpu": "500m", "count/pods.core.drayage.dev": "3", "services": "2", "services.nodeports": "1",
			"count/deployments.apps.drayage.dev": "1", "configmaps": "2",
		} {
			quota.Spec.Hard[name] = resource.MustParse(hard)
		}
		Expect(c.Create(ctx, quota)).To(Succeed())
	}, NodeTimeout(5*time.Minute))

	used := func(ctx context.Context) func() map[string]string {
		return func() map[string]string {
			quota := &corev1.ResourceQuota{}
			if err := c.Get(ctx, client.ObjectKey{Namespace: team, Name: "share"}, quota); err != nil {
				return nil
			}
			used := map[string]string{}
			for name, quantity := range quota.Status.Used {
				used[string(name)] = quantity.String()
			}
			return used
		}
	}
	pod := func(name, cpu string) *dcorev1.Pod {
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}, Spec: podSpec()}
		if cpu != "" {
			pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
		}
		return pod
	}
	refused := func(err error, because string) {
		GinkgoHelper()
		Expect(err).To(MatchError(ContainSubstring(because)))
		Expect(apierrors.IsForbidden(err)).To(BeTrue())
	}

	It("bounds pods by number and by what they request", func(ctx SpecContext) {
		Eventually(used(ctx)).Should(And(
			HaveKeyWithValue("pods", "0"), HaveKeyWithValue("requests.cpu", "0"), HaveKeyWithValue("count/pods.core.drayage.dev", "0")))
		refused(c.Create(ctx, pod("greedy", "")), "failed quota: share: must specify requests.cpu for: web")
		first, second := pod("first", "300m"), pod("second", "100m")
		Expect(c.Create(ctx, first)).To(Succeed())
		refused(c.Create(ctx, pod("greedy", "300m")), "exceeded quota: share, requested: requests.cpu=300m, used: requests.cpu=300m, limited: requests.cpu=500m")
		Expect(c.Create(ctx, second)).To(Succeed())
		refused(c.Create(ctx, pod("third", "50m")), "exceeded quota: share, requested: pods=1, used: pods=2, limited: pods=2")
		Expect(used(ctx)()).To(And(HaveKeyWithValue("requests.cpu", "400m"), HaveKeyWithValue("count/pods.core.drayage.dev", "2")))

		By("a pod that ended or is gone gives back what it had")
		first.Status.Phase = corev1.PodSucceeded
		Expect(c.Status().Update(ctx, first)).To(Succeed())
		Expect(c.Delete(ctx, second)).To(Succeed())
		Eventually(used(ctx)).Should(And(
			HaveKeyWithValue("pods", "0"), HaveKeyWithValue("requests.cpu", "0"), HaveKeyWithValue("count/pods.core.drayage.dev", "1")))
		Expect(c.Create(ctx, pod("third", "500m"))).To(Succeed())
	}, SpecTimeout(5*time.Minute))

	It("bounds services and their ports", func(ctx SpecContext) {
		service := func(name string, kind corev1.ServiceType) *dcorev1.Service {
			service := &dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}}
			service.Spec.Type, service.Spec.Ports = kind, []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}
			return service
		}
		Eventually(used(ctx)).Should(HaveKeyWithValue("services.nodeports", "0"))
		Expect(c.Create(ctx, service("web", corev1.ServiceTypeNodePort))).To(Succeed())
		plain := service("api", corev1.ServiceTypeClusterIP)
		Expect(c.Create(ctx, plain)).To(Succeed())
		refused(c.Create(ctx, service("more", corev1.ServiceTypeClusterIP)), "exceeded quota: share, requested: services=1, used: services=2, limited: services=2")
		plain.Spec.Type = corev1.ServiceTypeNodePort
		refused(c.Update(ctx, plain), "exceeded quota: share, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1")
	}, SpecTimeout(5*time.Minute))

	It("bounds the number of any other kind's objects", func(ctx SpecContext) {
		Eventually(used(ctx)).Should(And(
			HaveKeyWithValue("configmaps", "1"), HaveKeyWithValue("count/deployments.apps.drayage.dev", "0")))
		deployment := func(name string) *dappsv1.Deployment {
			labels := map[string]string{"app": name}
			deployment := &dappsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}}
			deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
			deployment.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}
			return deployment
		}
		Expect(c.Create(ctx, deployment("one"))).To(Succeed())
		refused(c.Create(ctx, deployment("two")), "exceeded quota: share, requested: count/deployments.apps.drayage.dev=1")
		settings := func(name string) *corev1.ConfigMap {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name}}
		}
		Expect(c.Create(ctx, settings("one"))).To(Succeed())
		refused(c.Create(ctx, settings("two")), "exceeded quota: share, requested: configmaps=1")
	}, SpecTimeout(5*time.Minute))
})
