package delete_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/commandline"
	"drayage.dev/test/env"
)

const patience = 2 * time.Minute

var _ = Describe("dray delete", Ordered, func() {
	var (
		e     *env.Env
		admin client.Client
	)

	BeforeAll(func(ctx context.Context) {
		var err error
		e, err = env.Start(context.WithoutCancel(ctx))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		admin, err = e.Client()
		Expect(err).NotTo(HaveOccurred())
		commandline.Use(e)
	})

	add := func(ctx context.Context, name string, finalizers ...string) *dcorev1.Pod {
		GinkgoHelper()
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{"app": "web"}, Finalizers: append(finalizers, dcorev1.NodeFinalizer),
		}}
		pod.Spec = corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}
		Expect(admin.Create(ctx, pod)).To(Succeed())
		DeferCleanup(func(ctx context.Context) {
			Expect(client.IgnoreNotFound(admin.Delete(ctx, pod))).To(Succeed())
			off := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
			Expect(client.IgnoreNotFound(admin.Patch(ctx, pod, off))).To(Succeed())
		})
		return pod
	}
	gone := func(ctx context.Context, pod *dcorev1.Pod) bool {
		return apierrors.IsNotFound(admin.Get(ctx, client.ObjectKeyFromObject(pod), pod))
	}
	dray := func(args ...string) (string, int) {
		return commandline.Run(append([]string{"delete"}, args...)...)
	}

	It("leaves a pod its own grace period unless told otherwise", func(ctx context.Context) {
		pod := add(ctx, "web")
		text, code := dray("pod", "web", "--wait=false")
		Expect(text).To(ContainSubstring(`pod.core.drayage.dev "web" deleted`))
		Expect(code).To(Equal(0))
		Expect(gone(ctx, pod)).To(BeFalse())
		Expect(pod.DeletionTimestamp).NotTo(BeNil())
		Expect(pod.Annotations).NotTo(HaveKey(dcorev1.DeletionGracePeriodAnnotation))
		Expect(pod.Finalizers).To(ConsistOf(dcorev1.NodeFinalizer))
	})

	It("hands a grace period to the node, and waits for the pod's end", func(ctx context.Context) {
		pod := add(ctx, "web")
		done := make(chan int, 1)
		go func() {
			defer GinkgoRecover()
			_, code := dray("pods", "-l", "app=web", "--grace-period=7")
			done <- code
		}()
		Eventually(func() map[string]string { _ = gone(ctx, pod); return pod.Annotations }, patience).
			Should(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "7"))
		Eventually(func() bool { _ = gone(ctx, pod); return pod.DeletionTimestamp != nil }, patience).Should(BeTrue())
		Consistently(done, 500*time.Millisecond).ShouldNot(Receive())
		off := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		Expect(admin.Patch(ctx, pod, off)).To(Succeed())
		Eventually(done, patience).Should(Receive(Equal(0)))
	})

	It("takes a pod away at once by force, without other people's finalizers", func(ctx context.Context) {
		pod := add(ctx, "web")
		text, code := dray("dpo/web", "--grace-period=0", "--force")
		Expect(code).To(Equal(0))
		Expect(text).To(ContainSubstring("Immediate deletion does not wait"))
		Expect(text).To(ContainSubstring(`pod.core.drayage.dev "web" force deleted`))
		Expect(gone(ctx, pod)).To(BeTrue())

		kept := add(ctx, "kept", "example.com/backup")
		_, code = dray("pod", "kept", "--force", "--wait=false")
		Expect(code).To(Equal(0))
		Expect(gone(ctx, kept)).To(BeFalse())
		Expect(kept.Finalizers).To(ConsistOf("example.com/backup"))
		Expect(kept.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "0"))
	})

	It("writes nothing on a dry run", func(ctx context.Context) {
		pod := add(ctx, "web")
		_, code := dray("pod", "web", "--grace-period=3", "--dry-run=server")
		Expect(code).To(Equal(0))
		Expect(gone(ctx, pod)).To(BeFalse())
		Expect(pod.DeletionTimestamp).To(BeNil())
		Expect(pod.Annotations).To(BeEmpty())
	})

	It("deletes other kinds as kubectl does, and reports what is not there", func(ctx context.Context) {
		config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "config"}}
		Expect(admin.Create(ctx, config)).To(Succeed())
		text, code := dray("configmap", "config", "--grace-period=5")
		Expect(text).To(ContainSubstring(`configmap "config" deleted`))
		Expect(code).To(Equal(0))
		text, code = dray("pod", "none", "--grace-period=5")
		Expect(text).To(ContainSubstring(`pods.core.drayage.dev "none" not found`))
		Expect(code).To(Equal(1))
	})
})
