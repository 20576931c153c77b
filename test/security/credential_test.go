package security_test

import (
	"context"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/config"
)

var _ = Describe("a stolen credential of a node", func() {
	thieves := func() []*thief { return []*thief{certificate, token} }

	for _, attempt := range attempts {
		verb := "cannot "
		if attempt.guard == unprevented {
			verb = "can "
		}
		It(verb+attempt.what, func(ctx SpecContext) {
			for _, t := range thieves() {
				err := attempt.try(ctx, t)
				switch {
				case attempt.guard == unprevented:
					Expect(err).NotTo(HaveOccurred(), t.name)
				case attempt.guard == authorizer && t == token:
					// In a cluster the API server is not ours; docs/security.md says so below the table.
					Expect(err).NotTo(HaveOccurred(), t.name)
				default:
					Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%s: %v", t.name, err)
				}
			}
		}, SpecTimeout(2*time.Minute))
	}

	It("can write nothing at all when its token names no node", func(ctx SpecContext) {
		for _, attempt := range attempts {
			if attempt.guard == policy {
				Expect(apierrors.IsForbidden(attempt.try(ctx, nowhere))).To(BeTrue(), attempt.what)
			}
		}
		Expect(nowhere.patchStatus(ctx, &dcorev1.Pod{}, shop, "waiting", `{"status":{"phase":"Failed"}}`)).To(MatchError(ContainSubstring("drayage-node-pods")))
		Expect(nowhere.renew(ctx, own)).To(MatchError(ContainSubstring("drayage-node-leases")))
		Expect(apierrors.IsForbidden(nowhere.mint(ctx, own, "own"))).To(BeTrue())
	}, SpecTimeout(2*time.Minute))

	It("is held by the policies also where roles give too much", func(ctx SpecContext) {
		tooMuch := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "too-much"}, Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{"core.drayage.dev", "coordination.k8s.io", ""}, Resources: []string{"nodes", "nodes/status", "pods", "pods/status", "leases", "events"}, Verbs: []string{"*"},
		}}}
		Expect(admin.Create(ctx, tooMuch)).To(Succeed())
		Expect(admin.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "too-much"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "too-much"},
			Subjects: []rbacv1.Subject{
				{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: dcorev1.NodesGroup},
				{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: config.AgentServiceAccount},
			},
		})).To(Succeed())
		for _, t := range append(thieves(), nowhere) {
			Eventually(func() error { return t.client.Create(ctx, newPod(shop, "planted", "")) }).Should(MatchError(ContainSubstring("drayage-node-pods")))
			for _, attempt := range attempts {
				if attempt.guard == policy {
					err := attempt.try(ctx, t)
					Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%s: %s: %v", t.name, attempt.what, err)
					Expect(err).To(MatchError(ContainSubstring("ValidatingAdmissionPolicy")), "%s: %s", t.name, attempt.what)
				}
			}
		}
	}, SpecTimeout(5*time.Minute))

	It("lets a node that is new make its Node, and only itself", func(ctx SpecContext) {
		user, err := server.As(dcorev1.NodeUserPrefix+"node-new", dcorev1.NodesGroup)
		Expect(err).NotTo(HaveOccurred())
		fresh := newThief("", user)
		node := &dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-new", Labels: map[string]string{"kubernetes.io/hostname": "node-new", "disk": "fast"}}}
		addressed, labelled := node.DeepCopy(), node.DeepCopy()
		addressed.Spec.PodCIDR = "10.96.0.0/24"
		labelled.Labels["node-role.kubernetes.io/trusted"] = ""
		Expect(fresh.client.Create(ctx, addressed)).To(MatchError(ContainSubstring("addresses of its pods")))
		Expect(fresh.client.Create(ctx, labelled)).To(MatchError(ContainSubstring("node-role.kubernetes.io/trusted")))
		Expect(fresh.client.Create(ctx, node)).To(Succeed())
		Expect(fresh.client.Create(ctx, lease("node-new"))).To(Succeed())
	}, SpecTimeout(2*time.Minute))
})

var _ = Describe("binding", func() {
	It("is the scheduler's, and whoever's who may create pods/binding", func(ctx SpecContext) {
		editor := func(name string, resources ...string) client.Client {
			GinkgoHelper()
			Expect(admin.Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name}, Rules: []rbacv1.PolicyRule{{
				APIGroups: []string{"core.drayage.dev"}, Resources: resources, Verbs: []string{"create", "patch"},
			}}})).To(Succeed())
			Expect(admin.Create(ctx, &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
				Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
			})).To(Succeed())
			config, err := server.As(name)
			Expect(err).NotTo(HaveOccurred())
			return newThief("", config).client
		}
		user, operator := editor("developer", "pods"), editor("operator", "pods", "pods/binding")
		Eventually(func() error { return user.Create(ctx, newPod(shop, "unbound", "")) }).Should(Succeed())
		Eventually(func() error { return user.Create(ctx, newPod(shop, "bound", own), client.DryRunAll) }).
			Should(MatchError(ContainSubstring("spec.nodeName is set by the scheduler")))
		Expect(user.Create(ctx, newPod(shop, "bound", own))).To(MatchError(ContainSubstring("spec.nodeName is set by the scheduler")))
		bind := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"nodeName":"`+own+`"}}`))
		Expect(user.Patch(ctx, newPod(shop, "unbound", ""), bind)).To(MatchError(ContainSubstring("spec.nodeName is set by the scheduler")))
		config, err := server.As("drayage:scheduler")
		Expect(err).NotTo(HaveOccurred())
		Expect(newThief("", config).client.Patch(ctx, newPod(shop, "unbound", ""), bind)).To(Succeed())
		Eventually(func() error { return operator.Create(ctx, newPod(shop, "placed", own)) }).Should(Succeed())
	}, SpecTimeout(2*time.Minute))
})

const (
	begin = "<!-- written from test/security; UPDATE_GOLDEN=1 go test ./test/security -->\n"
	end   = "<!-- end of the generated part -->\n"
)

// table is what docs/security.md shows of the attempts.
func table() string {
	var b strings.Builder
	b.WriteString("| with a stolen credential of a node | one can | held by |\n| --- | --- | --- |\n")
	for _, attempt := range attempts {
		verdict := "no"
		if attempt.guard == unprevented {
			verdict = "yes"
		}
		b.WriteString("| " + attempt.what + " | " + verdict + " | " + attempt.guard + " |\n")
	}
	return b.String()
}

var _ = Describe("docs/security.md", func() {
	It("shows the table that is tried here", func(context.Context) {
		const path = "../../docs/security.md"
		page, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		before, rest, found := strings.Cut(string(page), begin)
		Expect(found).To(BeTrue())
		_, after, found := strings.Cut(rest, end)
		Expect(found).To(BeTrue())
		fresh := before + begin + table() + end + after
		if os.Getenv("UPDATE_GOLDEN") != "" {
			Expect(os.WriteFile(path, []byte(fresh), 0o644)).To(Succeed())
		}
		Expect(string(page)).To(Equal(fresh), "run UPDATE_GOLDEN=1 go test ./test/security")
	})
})
