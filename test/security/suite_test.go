package security_test

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/apiserver"
	"drayage.dev/config"
	"drayage.dev/controlplane"
	"drayage.dev/internal/scheme"
	"drayage.dev/test/env"
)

func TestSecurity(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	RunSpecs(t, "security")
}

const (
	// own is the node whose credential is stolen, other is any other.
	own, other = "node-a", "node-b"
	// shop is the namespace of somebody's pods.
	shop = "shop"
	// agents is where an installation has its agents.
	agents = "drayage-system"
)

var (
	server *env.Env
	admin  client.WithWatch
)

// thief holds a credential of the node own.
type thief struct {
	name      string
	config    *rest.Config
	client    client.WithWatch
	clientset kubernetes.Interface
}

// The two forms of the identity, and the one of a token that names no node.
var certificate, token, nowhere *thief

var _ = BeforeSuite(func(ctx context.Context) {
	var err error
	server, err = env.Start(context.WithoutCancel(ctx), env.WithAPIGroups(controlplane.APIGroup{
		LongRunning: apiserver.LongRunning(),
		New: func(ctx context.Context, deps controlplane.Deps) (*genericapiserver.APIGroupInfo, error) {
			return apiserver.NewAPIGroup(ctx, apiserver.Config{
				Client: deps.Loopback, Authorizer: deps.Authorizer, CAFile: deps.CAFile,
				ClientCertFile: deps.ClientCertFile, ClientKeyFile: deps.ClientKeyFile, NodeServiceAccount: config.AgentServiceAccount,
			})
		},
	}))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(server.Stop)
	admin, err = server.Client()
	Expect(err).NotTo(HaveOccurred())
	furnish(ctx)

	user, err := server.As(dcorev1.NodeUserPrefix+own, dcorev1.NodesGroup)
	Expect(err).NotTo(HaveOccurred())
	certificate = newThief("client certificate", user)
	token = newThief("service-account token", withToken(ctx, &authenticationv1.BoundObjectReference{
		APIVersion: "v1", Kind: "Pod", Name: "agent", UID: get(ctx, agents, "agent").UID,
	}))
	nowhere = newThief("token that names no node", withToken(ctx, nil))

	// Roles and policies are active a moment after they were made.
	for _, t := range []*thief{certificate, token} {
		Eventually(func() error { return t.label(ctx, &dcorev1.Pod{}, shop, "own") }).Should(MatchError(ContainSubstring("drayage-node-pods")))
		Eventually(func() error { return t.label(ctx, &dcorev1.Node{}, "", other) }).Should(MatchError(ContainSubstring("drayage-node-nodes")))
		Eventually(func() error { return t.renew(ctx, other) }).Should(MatchError(ContainSubstring("drayage-node-leases")))
		Eventually(func() error { return t.report(ctx, other) }).Should(MatchError(ContainSubstring("drayage-node-events")))
	}
})

// furnish makes what there is to steal.
func furnish(ctx context.Context) {
	GinkgoHelper()
	create := func(object client.Object) {
		GinkgoHelper()
		Expect(admin.Create(ctx, object)).To(Succeed())
	}
	create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: shop}})
	for _, namespace := range []string{shop, agents} {
		Eventually(func() error {
			return admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "default"}, &corev1.ServiceAccount{})
		}).Should(Succeed())
	}
	create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: agents, Name: "drayage-agent"}})
	// What the chart grants to the agents, config/rbac/node.yaml grants to client certificates.
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: agents, Name: "drayage-agent"}
	create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "agents"}, Subjects: []rbacv1.Subject{subject},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "drayage:node"},
	})
	create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: "agents"}, Subjects: []rbacv1.Subject{subject},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "drayage:node"},
	})
	for _, node := range []string{own, other} {
		create(&dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{
			Taints: []corev1.Taint{{Key: "dedicated", Effect: corev1.TaintEffectNoSchedule}},
		}})
		create(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: dcorev1.NodeLeaseNamespace, Name: node}})
	}
	for name, node := range map[string]string{"own": own, "other": other, "waiting": ""} {
		create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: "secret-of-" + name}, StringData: map[string]string{"key": "value"}})
		create(newPod(shop, name, node))
	}
	create(newPod(agents, "agent", own))
}

// newPod returns a pod that takes a variable from a Secret of its own.
func newPod(namespace, name, node string) *dcorev1.Pod {
	return &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Finalizers: []string{dcorev1.NodeFinalizer, "example.com/other"}},
		Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: map[string]string{agents: "drayage-agent"}[namespace], Containers: []corev1.Container{{
			Name: "web", Image: "web:1", Env: []corev1.EnvVar{{Name: "KEY", ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "secret-of-" + name}, Key: "key"},
			}}},
		}}},
	}
}

func newThief(name string, config *rest.Config) *thief {
	GinkgoHelper()
	t := &thief{name: name, config: config}
	var err error
	t.client, err = client.NewWithWatch(config, client.Options{Scheme: scheme.New()})
	Expect(err).NotTo(HaveOccurred())
	t.clientset, err = kubernetes.NewForConfig(config)
	Expect(err).NotTo(HaveOccurred())
	return t
}

// withToken returns the access of the agents' service account with a token that is bound as given.
func withToken(ctx context.Context, bound *authenticationv1.BoundObjectReference) *rest.Config {
	GinkgoHelper()
	clientset, err := kubernetes.NewForConfig(server.Config)
	Expect(err).NotTo(HaveOccurred())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
	request, err = clientset.CoreV1().ServiceAccounts(agents).CreateToken(ctx, "drayage-agent", request, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
	config := rest.AnonymousClientConfig(server.Config)
	config.BearerToken, config.QPS = request.Status.Token, -1
	return config
}

func get(ctx context.Context, namespace, name string) *dcorev1.Pod {
	GinkgoHelper()
	pod := &dcorev1.Pod{}
	Expect(admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)).To(Succeed())
	return pod
}
