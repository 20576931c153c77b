package apiserver_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

var _ = Describe("The check of a node's network", func() {
	ask := func(ctx context.Context, user, node, body string, groups ...string) (string, error) {
		GinkgoHelper()
		config := rest.CopyConfig(as(server, user, groups...))
		config.APIPath, config.GroupVersion = "/apis", &subresourcesv1alpha1.GroupVersion
		config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
		config.NegotiatedSerializer = serializer.WithoutConversionCodecFactory{CodecFactory: scheme.Codecs}
		client, err := rest.RESTClientFor(config)
		Expect(err).NotTo(HaveOccurred())
		result := client.Post().Resource("nodes").Name(node).SubResource("check").Body([]byte(body)).Do(ctx)
		if err := result.Error(); err != nil {
			return "", err
		}
		answer, err := result.Raw()
		return string(answer), err
	}

	It("is the agent's answer, for those who may ask", func(ctx context.Context) {
		startNode(ctx, "check-1")
		allow(ctx, admin, "spec:check", rbacv1.Subject{Kind: "User", Name: "operator", APIGroup: rbacv1.GroupName}, rule("create", "nodes/check"))
		Expect(ask(ctx, "operator", "check-1", `{"nodes":[{"name":"check-2"}]}`)).
			To(MatchJSON(`{"findings":[{"broken":true,"message":"check-1 to check-2"}]}`))

		_, err := ask(ctx, "operator", "check-1", `{`)
		Expect(err).To(MatchError(ContainSubstring("unexpected EOF")))
		_, err = ask(ctx, "operator", "nowhere", `{}`)
		Expect(err).To(MatchError(ContainSubstring(`node "nowhere" does not exist`)))
		for _, user := range []string{"somebody", dcorev1.NodeUserPrefix + "check-1"} {
			_, err = ask(ctx, user, "check-1", `{}`, dcorev1.NodesGroup)
			Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%s: %v", user, err)
		}
	})

	It("tells of an agent that is away", func(ctx context.Context) {
		allow(ctx, admin, "spec:check-away", rbacv1.Subject{Kind: "User", Name: "operator-2", APIGroup: rbacv1.GroupName}, rule("create", "nodes/check"))
		registerNode(ctx, "check-away", "127.0.0.1", 1)
		_, err := ask(ctx, "operator-2", "check-away", `{}`)
		Expect(apierrors.IsServiceUnavailable(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(`connecting to the agent of node "check-away"`)))
	})
})
