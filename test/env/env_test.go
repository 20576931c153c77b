package env_test

import (
	"context"
	"os"
	"os/exec"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/env"
)

var _ = Describe("a control plane for specs", Ordered, func() {
	var (
		e *env.Env
		c client.Client
	)

	BeforeAll(func(ctx context.Context) {
		var err error
		e, err = env.Start(context.WithoutCancel(ctx))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		c, err = e.Client()
		Expect(err).NotTo(HaveOccurred())
	})

	podSpec := corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}

	It("stores a Deployment", func(ctx context.Context) {
		labels := map[string]string{"app": "web"}
		deployment := &dappsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec},
			},
		}
		Expect(c.Create(ctx, deployment)).To(Succeed())
		stored := &dappsv1.Deployment{}
		Expect(c.Get(ctx, client.ObjectKeyFromObject(deployment), stored)).To(Succeed())
		Expect(stored.Spec.Template.Labels).To(Equal(labels))
	})

	It("lets a pod be bound once, and selects pods by node", func(ctx context.Context) {
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: podSpec}
		Expect(c.Create(ctx, pod)).To(Succeed())
		pod.Spec.NodeName = "node-1"
		Expect(c.Update(ctx, pod)).To(Succeed())
		pod.Spec.NodeName = "node-2"
		Expect(c.Update(ctx, pod)).To(MatchError(ContainSubstring("spec.nodeName is immutable once set")))

		for node, count := range map[string]int{"node-1": 1, "node-2": 0} {
			pods := &dcorev1.PodList{}
			Expect(c.List(ctx, pods, client.MatchingFields{dcorev1.NodeNameField: node})).To(Succeed())
			Expect(pods.Items).To(HaveLen(count), node)
		}
	})

	It("knows other identities and gives them no rights", func(ctx context.Context) {
		config, err := e.As("drayage:node:node-9", "someone")
		Expect(err).NotTo(HaveOccurred())
		other, err := client.New(config, client.Options{Scheme: scheme.New()})
		Expect(err).NotTo(HaveOccurred())
		err = other.List(ctx, &dcorev1.PodList{}, client.InNamespace("default"))
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(`User "drayage:node:node-9" cannot list`)))
	})
})

var _ = Describe("a command that test/isolated.sh runs", func() {
	It("has a loopback and no way out of it", func(ctx SpecContext) {
		if os.Getuid() != 0 {
			Skip("without root there is no namespace to make")
		}
		links, err := exec.CommandContext(ctx, "../isolated.sh", "ip", "-oneline", "link").Output()
		Expect(err).NotTo(HaveOccurred())
		Expect(string(links)).To(And(HavePrefix("1: lo: <LOOPBACK,UP,"), HaveSuffix("\n")))
		Expect(strings.Count(string(links), "\n")).To(Equal(1))
		out, err := exec.CommandContext(ctx, "../isolated.sh", "ip", "route", "get", "192.0.2.1").CombinedOutput()
		Expect(err).To(HaveOccurred())
		Expect(string(out)).To(ContainSubstring("unreachable"))
	})
})
