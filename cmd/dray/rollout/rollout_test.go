package rollout_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	"drayage.dev/test/commandline"
	"drayage.dev/test/env"
)

const patience = 2 * time.Minute

var _ = Describe("dray rollout", Ordered, func() {
	var (
		e     *env.Env
		admin client.Client
		web   *dappsv1.Deployment
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

	// A deployment at revision 2, as its controller would have left it. The text in the environment must
	// survive the translation of the group.
	BeforeEach(func(ctx context.Context) {
		web = &dappsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web", Annotations: map[string]string{dappsv1.RevisionAnnotation: "2"},
		}}
		two := int32(2)
		web.Spec.Replicas = &two
		web.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		web.Spec.Template = template("web:2", nil)
		Expect(admin.Create(ctx, web)).To(Succeed())
		for revision := range 2 {
			labels := map[string]string{"pod-template-hash": fmt.Sprint(revision + 1)}
			set := &dappsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: fmt.Sprintf("web-%d", revision+1), Labels: map[string]string{"app": "web"},
				Annotations: map[string]string{
					dappsv1.RevisionAnnotation: fmt.Sprint(revision + 1), "kubernetes.io/change-cause": fmt.Sprintf("cause %d", revision+1),
				},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(web, dappsv1.GroupVersion.WithKind("Deployment"))},
			}}
			set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
			set.Spec.Replicas = &two
			set.Spec.Template = template(fmt.Sprintf("web:%d", revision+1), labels)
			Expect(admin.Create(ctx, set)).To(Succeed())
		}
		DeferCleanup(func(ctx context.Context) {
			Expect(admin.DeleteAllOf(ctx, &dappsv1.Deployment{}, client.InNamespace("default"))).To(Succeed())
			Expect(admin.DeleteAllOf(ctx, &dappsv1.ReplicaSet{}, client.InNamespace("default"))).To(Succeed())
		})
	})

	report := func(ctx context.Context, updated, available int32) {
		GinkgoHelper()
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(web), web)).To(Succeed())
		web.Status.ObservedGeneration = web.Generation
		web.Status.Replicas, web.Status.UpdatedReplicas = updated, updated
		web.Status.AvailableReplicas, web.Status.ReadyReplicas = available, available
		web.Status.Summary = dappsv1.DeploymentSummary{Ready: "0/2"}
		Expect(admin.Status().Update(ctx, web)).To(Succeed())
	}
	dray := func(args ...string) (string, int) {
		return commandline.Run(append([]string{"rollout"}, args...)...)
	}

	It("waits until a rollout is complete", func(ctx context.Context) {
		report(ctx, 1, 1)
		type outcome struct {
			text string
			code int
		}
		done := make(chan outcome, 1)
		go func() {
			defer GinkgoRecover()
			text, code := dray("status", "deployment/web", "--timeout=2m")
			done <- outcome{text, code}
		}()
		Consistently(done, time.Second).ShouldNot(Receive())
		report(ctx, 2, 1)
		report(ctx, 2, 2)
		var o outcome
		Eventually(done, patience).Should(Receive(&o))
		Expect(o.code).To(Equal(0))
		Expect(o.text).To(And(
			ContainSubstring(`Waiting for deployment "web" rollout to finish: 1 out of 2 new replicas have been updated...`),
			HaveSuffix("deployment \"web\" successfully rolled out\n"),
		))
	})

	It("says what a rollout waits for, and fails when the time is over", func(ctx context.Context) {
		report(ctx, 2, 1)
		text, code := dray("status", "deploy", "web", "--watch=false")
		Expect(code).To(Equal(0))
		Expect(text).To(ContainSubstring("1 of 2 updated replicas are available..."))
		text, code = dray("status", "ddeploy/web", "--timeout=4s")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring("timed out waiting for the condition"))
	})

	It("shows the history", func(ctx context.Context) {
		text, code := dray("history", "deployment/web")
		Expect(code).To(Equal(0))
		Expect(text).To(ContainSubstring("deployment.apps.drayage.dev/web"))
		Expect(text).To(MatchRegexp(`(?m)^1 +cause 1$`))
		Expect(text).To(MatchRegexp(`(?m)^2 +cause 2$`))
		text, code = dray("history", "deployment/web", "--revision=1")
		Expect(code).To(Equal(0))
		Expect(text).To(ContainSubstring("web:1"))
		_, code = dray("history", "deployment/web", "--revision=7")
		Expect(code).To(Equal(1))
	})

	It("goes back", func(ctx context.Context) {
		text, code := dray("undo", "deployment", "web")
		Expect(text).To(Equal("deployment.apps.drayage.dev/web rolled back\n"))
		Expect(code).To(Equal(0))
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(web), web)).To(Succeed())
		Expect(web.Spec.Template.Spec.Containers[0].Image).To(Equal("web:1"))
		Expect(web.Spec.Template.Spec.Containers[0].Env[0].Value).To(Equal(`"apiVersion":"apps.drayage.dev/v1"`))
		Expect(web.Spec.Template.Labels).To(Equal(map[string]string{"app": "web"}))
		text, code = dray("undo", "deployment/web", "--to-revision=9")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring("unable to find specified revision 9 in history"))
	})

	It("pauses, resumes and restarts", func(ctx context.Context) {
		text, code := dray("pause", "deployments.apps.drayage.dev/web")
		Expect(text).To(Equal("deployment.apps.drayage.dev/web paused\n"))
		Expect(code).To(Equal(0))
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(web), web)).To(Succeed())
		Expect(web.Spec.Paused).To(BeTrue())
		text, code = dray("restart", "deployment/web")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring("can't restart paused deployment"))
		text, code = dray("resume", "deployment/web")
		Expect(text).To(Equal("deployment.apps.drayage.dev/web resumed\n"))
		Expect(code).To(Equal(0))
		text, code = dray("restart", "deployment/web")
		Expect(text).To(Equal("deployment.apps.drayage.dev/web restarted\n"))
		Expect(code).To(Equal(0))
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(web), web)).To(Succeed())
		Expect(web.Spec.Paused).To(BeFalse())
		Expect(web.Spec.Template.Annotations).To(HaveKey("kubectl.kubernetes.io/restartedAt"))
	})

	It("reports what does not exist", func() {
		text, code := dray("status", "deployment/none")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring("not found"))
		text, code = dray("status", "daemonset/web")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring("daemonset"))
		text, code = dray("statuss")
		Expect(code).To(Equal(1))
		Expect(text).To(ContainSubstring(`unknown command "statuss"`))
	})
})

func template(image string, labels map[string]string) corev1.PodTemplateSpec {
	all := map[string]string{"app": "web"}
	for key, value := range labels {
		all[key] = value
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: all},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "web", Image: image, Env: []corev1.EnvVar{{Name: "TEXT", Value: `"apiVersion":"apps.drayage.dev/v1"`}},
		}}},
	}
}
