package apiserver_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/apiserver"
	"drayage.dev/controlplane"
	"drayage.dev/test/env"
)

func TestAPIServer(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(10 * time.Millisecond)
	RunSpecs(t, "subresources.drayage.dev")
}

// server is the control plane that all specs share.
var server *env.Env

// admin writes what the specs need.
var admin client.WithWatch

var _ = BeforeSuite(func(ctx context.Context) {
	var err error
	server, err = env.Start(context.Background(), env.WithAPIGroups(group()), withoutRoles())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(server.Stop)
	admin, err = server.Client()
	Expect(err).NotTo(HaveOccurred())
	grantNodes(ctx, admin)
})

// grantNodes lets nodes use the broker.
func grantNodes(ctx context.Context, to client.Client) {
	GinkgoHelper()
	allow(ctx, to, "spec:nodes", rbacv1.Subject{Kind: "Group", Name: dcorev1.NodesGroup, APIGroup: rbacv1.GroupName},
		rule("get", "nodes/podobjects"), rule("create", "nodes/podtokens"), rule("get", "nodes/applied"), rule("create", "nodes/applied"))
}

// withoutRoles leaves the product's own roles out: each spec grants what it is about.
func withoutRoles() env.Option {
	return env.WithConfig(func(c *controlplane.Config) { c.Objects = nil })
}

// tempDir makes a directory whose path is short enough for the unix sockets in it.
func tempDir() (string, error) {
	dir, err := os.MkdirTemp("", "drayage-spec-")
	DeferCleanup(os.RemoveAll, dir)
	return dir, err
}

// group is the group under test, as cmd/dray/server joins it to the control plane.
func group() controlplane.APIGroup {
	return controlplane.APIGroup{
		New: func(ctx context.Context, deps controlplane.Deps) (*genericapiserver.APIGroupInfo, error) {
			return apiserver.NewAPIGroup(ctx, apiserver.Config{
				Client: deps.Loopback, Authorizer: deps.Authorizer,
				CAFile: deps.CAFile, ClientCertFile: deps.ClientCertFile, ClientKeyFile: deps.ClientKeyFile,
			})
		},
		LongRunning: apiserver.LongRunning(),
	}
}

func rule(verb, resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"subresources.drayage.dev"}, Resources: []string{resource}, Verbs: []string{verb}}
}

// allow grants rules to a subject in the whole cluster, and waits until the API server knows.
func allow(ctx context.Context, to client.Client, name string, subject rbacv1.Subject, rules ...rbacv1.PolicyRule) {
	GinkgoHelper()
	Expect(to.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules})).To(Succeed())
	Expect(to.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{subject},
	})).To(Succeed())
	who := authorizationv1.SubjectAccessReviewSpec{User: subject.Name}
	if subject.Kind == rbacv1.GroupKind {
		who = authorizationv1.SubjectAccessReviewSpec{User: "somebody", Groups: []string{subject.Name}}
	}
	for _, rule := range rules {
		resource, subresource, _ := strings.Cut(rule.Resources[0], "/")
		asked := &authorizationv1.ResourceAttributes{Verb: rule.Verbs[0], Group: rule.APIGroups[0], Resource: resource, Subresource: subresource}
		if len(rule.ResourceNames) > 0 {
			asked.Name = rule.ResourceNames[0]
		}
		Eventually(func() (bool, error) {
			review := &authorizationv1.SubjectAccessReview{Spec: who}
			review.Spec.ResourceAttributes = asked
			err := to.Create(ctx, review)
			return review.Status.Allowed, err
		}).Should(BeTrue())
	}
}

// as returns the access of another identity.
func as(e *env.Env, user string, groups ...string) *rest.Config {
	GinkgoHelper()
	config, err := e.As(user, groups...)
	Expect(err).NotTo(HaveOccurred())
	return config
}

var unique atomic.Int64

// newNamespace makes a namespace with its default service account.
func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	name := fmt.Sprintf("spec-%d", unique.Add(1))
	Expect(admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})).To(Succeed())
	Eventually(func() error {
		return admin.Get(ctx, client.ObjectKey{Namespace: name, Name: "default"}, &corev1.ServiceAccount{})
	}).Should(Succeed())
	return name
}

// newPod returns a pod with one container.
func newPod(namespace, name, node string) *dcorev1.Pod {
	return &dcorev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeName:   node,
			Containers: []corev1.Container{{Name: "app", Image: "app:1"}},
		},
	}
}
