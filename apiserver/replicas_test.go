package apiserver_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/apiserver"
	"drayage.dev/controlplane"
	"drayage.dev/network/withdrawal"
	"drayage.dev/test/env"
)

// The two have each an API server of their own to read nodes from, which makes no difference to them.
var _ = Describe("Replicas of the API", func() {
	const replica = "spec:replica"

	It("acknowledge endpoints that another one has the report of", func(ctx context.Context) {
		peers := make(chan map[string]*rest.Config, 1)
		second, err := env.Start(context.WithoutCancel(ctx), withoutRoles(), env.WithAPIGroups(controlplane.APIGroup{
			LongRunning: apiserver.LongRunning(),
			New: func(ctx context.Context, deps controlplane.Deps) (*genericapiserver.APIGroupInfo, error) {
				return apiserver.NewAPIGroup(ctx, apiserver.Config{
					Client: deps.Loopback, Authorizer: deps.Authorizer,
					CAFile: deps.CAFile, ClientCertFile: deps.ClientCertFile, ClientKeyFile: deps.ClientKeyFile,
					ReplicaUser: replica, Replicas: func(ctx context.Context, changed func(map[string]*rest.Config)) error {
						go func() {
							select {
							case found := <-peers:
								changed(found)
							case <-ctx.Done():
							}
						}()
						return nil
					},
				})
			},
		}))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(second.Stop)
		to, err := second.Client()
		Expect(err).NotTo(HaveOccurred())
		grantNodes(ctx, to)

		first, err := env.Start(context.WithoutCancel(ctx), withoutRoles(), env.WithAPIGroups(controlplane.APIGroup{
			LongRunning: apiserver.LongRunning(),
			New: func(ctx context.Context, deps controlplane.Deps) (*genericapiserver.APIGroupInfo, error) {
				return apiserver.NewAPIGroup(ctx, apiserver.Config{
					Client: deps.Loopback, Authorizer: deps.Authorizer,
					CAFile: deps.CAFile, ClientCertFile: deps.ClientCertFile, ClientKeyFile: deps.ClientKeyFile, ReplicaUser: replica,
				})
			},
		}))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(first.Stop)
		at, err := first.Client()
		Expect(err).NotTo(HaveOccurred())
		grantNodes(ctx, at)
		all := rule("create", "nodes/applied")
		all.ResourceNames = []string{subresourcesv1alpha1.AllNodes}
		allow(ctx, at, "spec:replicas", rbacv1.Subject{Kind: "User", Name: replica, APIGroup: rbacv1.GroupName}, all)

		for _, c := range []client.Client{at, to} {
			node := &dcorev1.Node{}
			node.Name = "far"
			Expect(c.Create(ctx, node)).To(Succeed())
			before := node.DeepCopy()
			node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
			Expect(c.Status().Patch(ctx, node, client.MergeFrom(before))).To(Succeed())
		}
		agent := func(e *env.Env) *withdrawal.Client {
			w, err := withdrawal.New(withdrawal.Config{
				Node: "far", RESTConfig: as(e, dcorev1.NodeUserPrefix+"far", dcorev1.NodesGroup), Proxy: &scriptedProxy{revision: 12, news: make(chan struct{})},
			})
			Expect(err).NotTo(HaveOccurred())
			return w
		}
		reporting, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- agent(second).Run(reporting) }()
		DeferCleanup(func() { cancel(); Eventually(done).Should(Receive(BeNil())) })
		Eventually(func() error {
			bounded, stop := context.WithTimeout(ctx, 2*time.Second)
			defer stop()
			return agent(first).Await(bounded, "pod")
		}).Should(MatchError(ContainSubstring("not acknowledged by far")))

		peers <- map[string]*rest.Config{"first": as(first, replica)}
		bounded, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		Expect(agent(first).Await(bounded, "pod")).To(Succeed())
	})

	It("take nobody else's word for all nodes", func(ctx context.Context) {
		body := []byte(`{"nodes":{"victim":{"revision":99}}}`)
		c, err := kubernetes.NewForConfig(as(server, dcorev1.NodeUserPrefix+"thief", dcorev1.NodesGroup))
		Expect(err).NotTo(HaveOccurred())
		err = c.Discovery().RESTClient().Post().AbsPath("/apis/subresources.drayage.dev/v1alpha1/nodes/-/applied").Body(body).Do(ctx).Error()
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
	})
})
