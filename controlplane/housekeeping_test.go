package controlplane_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/env"
)

var _ = Describe("the control plane's housekeeping", Ordered, func() {
	var (
		e *env.Env
		c client.WithWatch
	)

	BeforeAll(func(ctx context.Context) { e, c = start(ctx) })

	gone := func(ctx context.Context, object client.Object) func() bool {
		return func() bool {
			return apierrors.IsNotFound(c.Get(ctx, client.ObjectKeyFromObject(object), object))
		}
	}
	own := func(object, owner client.Object, kind string) {
		object.SetOwnerReferences([]metav1.OwnerReference{{
			APIVersion: dappsv1.GroupVersion.String(), Kind: kind, Name: owner.GetName(), UID: owner.GetUID(),
			Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
		}})
	}
	namespace := func(ctx context.Context, name string) {
		GinkgoHelper()
		Expect(c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})).To(Succeed())
	}

	It("deletes what a deleted Deployment owned, through its ReplicaSet", func(ctx context.Context) {
		namespace(ctx, "cascade")
		meta := metav1.ObjectMeta{Namespace: "cascade", Name: "web"}
		labels := map[string]string{"app": "web"}
		template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}

		deployment := &dappsv1.Deployment{ObjectMeta: meta}
		deployment.Spec.Selector, deployment.Spec.Template = &metav1.LabelSelector{MatchLabels: labels}, template
		Expect(c.Create(ctx, deployment)).To(Succeed())
		set := &dappsv1.ReplicaSet{ObjectMeta: meta}
		set.Spec.Selector, set.Spec.Template = deployment.Spec.Selector, template
		own(set, deployment, "Deployment")
		Expect(c.Create(ctx, set)).To(Succeed())
		pod := &dcorev1.Pod{ObjectMeta: meta, Spec: podSpec()}
		pod.Finalizers = []string{dcorev1.NodeFinalizer}
		own(pod, set, "ReplicaSet")
		Expect(c.Create(ctx, pod)).To(Succeed())

		Expect(c.Delete(ctx, deployment, client.PropagationPolicy(metav1.DeletePropagationBackground))).To(Succeed())
		Eventually(gone(ctx, set)).Should(BeTrue())
		Eventually(func(g Gomega) {
			g.Expect(c.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			g.Expect(pod.DeletionTimestamp).NotTo(BeNil())
		}).Should(Succeed())
		pod.Finalizers = nil
		Expect(c.Update(ctx, pod)).To(Succeed())
		Expect(gone(ctx, pod)()).To(BeTrue())
	})

	It("gives every namespace an account and the root certificate, and empties a deleted one", func(ctx context.Context) {
		namespace(ctx, "short-lived")
		Eventually(func(g Gomega) {
			g.Expect(c.Get(ctx, client.ObjectKey{Namespace: "short-lived", Name: "default"}, &corev1.ServiceAccount{})).To(Succeed())
			root := &corev1.ConfigMap{}
			g.Expect(c.Get(ctx, client.ObjectKey{Namespace: "short-lived", Name: "kube-root-ca.crt"}, root)).To(Succeed())
			g.Expect(root.Data["ca.crt"]).To(HavePrefix("-----BEGIN CERTIFICATE-----"))
		}).Should(Succeed())

		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "short-lived", Name: "web"}, Spec: podSpec()}
		Expect(c.Create(ctx, pod)).To(Succeed())
		Expect(c.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "short-lived"}})).To(Succeed())
		Eventually(gone(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "short-lived"}})).Should(BeTrue())
		Expect(gone(ctx, pod)()).To(BeTrue())
	})

	It("issues tokens that live and die with a pod", func(ctx context.Context) {
		namespace(ctx, "tokens")
		Eventually(func() error {
			return c.Get(ctx, client.ObjectKey{Namespace: "tokens", Name: "default"}, &corev1.ServiceAccount{})
		}).Should(Succeed())
		pod := &dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "tokens", Name: "web"}, Spec: podSpec()}
		pod.Spec.ServiceAccountName = "default"
		Expect(c.Create(ctx, pod)).To(Succeed())

		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: ptr.To[int64](600),
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		}}
		token, err := clientset(e.Config).CoreV1().ServiceAccounts("tokens").CreateToken(ctx, "default", request, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())

		config := rest.AnonymousClientConfig(e.Config)
		config.BearerToken = token.Status.Token
		whoAmI := func() (string, error) {
			review, err := clientset(config).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			if err != nil {
				return "", err
			}
			return review.Status.UserInfo.Username, nil
		}
		Expect(whoAmI()).To(Equal("system:serviceaccount:tokens:default"))
		Expect(c.Delete(ctx, pod)).To(Succeed())
		Eventually(func() bool {
			_, err := whoAmI()
			return apierrors.IsUnauthorized(err)
		}, time.Minute, 200*time.Millisecond).Should(BeTrue(), "the token outlives its pod only in the authenticator's cache")
	})

	It("knows the token of an account that was made just now", func(ctx context.Context) {
		namespace(ctx, "hurry")
		accounts := clientset(e.Config).CoreV1().ServiceAccounts("hurry")
		for i := range 30 { // each time the watch of accounts is a little behind
			account, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("account-", i)}}, metav1.CreateOptions{})
			Expect(err).NotTo(HaveOccurred())
			token, err := accounts.CreateToken(ctx, account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			Expect(err).NotTo(HaveOccurred())
			review, err := clientset(e.Config).AuthenticationV1().TokenReviews().Create(ctx,
				&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{})
			Expect(err).NotTo(HaveOccurred())
			Expect(review.Status.Authenticated).To(BeTrue(), review.Status.Error)
		}
	})
})
