package app_test

import (
	"context"
	"os/exec"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/test/commandline"
	"drayage.dev/test/env"
)

var _ = Describe("completion", Ordered, ContinueOnFailure, func() {
	BeforeAll(func(ctx context.Context) {
		e, err := env.Start(context.WithoutCancel(ctx))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		commandline.Use(e)
		admin, err := e.Client()
		Expect(err).NotTo(HaveOccurred())
		template := corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "server", Image: "web:1"}, {Name: "proxy", Image: "proxy:1"}}},
		}
		web := &dappsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		web.Spec.Selector = &metav1.LabelSelector{MatchLabels: template.Labels}
		web.Spec.Template = template
		for _, object := range []client.Object{
			web,
			&dcorev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-0", Labels: template.Labels}, Spec: template.Spec},
			&dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "front"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}},
			&dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}},
			&dcorev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}},
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		} {
			Expect(admin.Create(ctx, object)).To(Succeed())
		}
	})

	DescribeTable("offers what the cluster has", func(want []string, line ...string) {
		text, code := commandline.Run(append([]string{"__complete"}, line...)...)
		Expect(code).To(BeZero(), text)
		words, _, ended := strings.Cut(text, "\n:")
		Expect(ended).To(BeTrue(), text)
		Expect(strings.Split(words, "\n")).To(ConsistOf(want))
	},
		Entry("pods to logs", []string{"web-0"}, "logs", "we"),
		Entry("kinds with pods to logs, none that Drayage lacks", []string{"web-0", "deployments/", "pods/", "replicasets/", "services/"}, "logs", ""),
		Entry("deployments to logs", []string{"deployments/web"}, "logs", "deployments/"),
		Entry("containers to logs", []string{"server"}, "logs", "web-0", "s"),
		Entry("pods to exec", []string{"web-0"}, "exec", "-it", "we"),
		Entry("containers to exec", []string{"server", "proxy"}, "exec", "web-0", "-c", ""),
		Entry("pods to attach", []string{"web-0"}, "attach", "we"),
		Entry("ports of a service", []string{"80:80"}, "port-forward", "services/front", ""),
		Entry("kinds to delete", []string{"pods.core.drayage.dev", "poddisruptionbudgets.policy.drayage.dev"}, "delete", "pod"),
		Entry("pods to delete", []string{"web-0"}, "delete", "pod", ""),
		Entry("deployments to delete", []string{"deployment/web"}, "delete", "deployment/"),
		Entry("deployments to rollout", []string{"web"}, "rollout", "status", "deployment", ""),
		Entry("the kind to rollout", []string{"deployment"}, "rollout", "undo", ""),
		Entry("nodes to drain", []string{"node-1", "node-2"}, "drain", ""),
		Entry("nodes to cordon", []string{"node-2"}, "cordon", "node-2"),
		Entry("nodes to uncordon", []string{"node-2"}, "uncordon", "node-2"),
		Entry("nodes to taint", []string{"node-1", "node-2"}, "taint", "node", ""),
		Entry("pods to explain", []string{"web-0"}, "explain", "pod", ""),
		Entry("kinds to net check", []string{"pod/"}, "net", "check", "--from", "p"),
		Entry("nodes to net check", []string{"node/node-1", "node/node-2"}, "net", "check", "--from", "node/"),
		Entry("services to net check", []string{"service/front"}, "net", "check", "--to", "service/f"),
		Entry("namespaces", []string{"shop"}, "logs", "--namespace", "sh"),
		Entry("contexts", []string{"drayage"}, "logs", "--context", ""),
		Entry("what kubectl offers", []string{"web-0"}, "kubectl", "get", "pods.core.drayage.dev", ""),
	)

	It("offers tokens, which are listed for scripts as well", func() {
		dray := func(args ...string) string {
			GinkgoHelper()
			text, code := commandline.Run(append([]string{"token"}, args...)...)
			Expect(code).To(BeZero(), text)
			return text
		}
		// The cluster has one of its own from its first start.
		dray(append([]string{"delete"}, strings.Fields(dray("list", "-o", "name"))...)...)
		Expect(dray("list", "-o", "json")).To(Equal("[]\n"))
		id, _, _ := strings.Cut(dray("create", "--ttl=0", "--description=rack 7"), ".")
		Expect(dray("list")).To(MatchRegexp(id + " +never +rack 7\n$"))
		Expect(dray("list", "-o", "name")).To(Equal(id + "\n"))
		Expect(dray("list", "-o", "json")).To(MatchJSON(`[{"id": "` + id + `", "description": "rack 7"}]`))
		Expect(dray("list", "-o", "yaml")).To(MatchYAML(`[{"id": "` + id + `", "description": "rack 7"}]`))
		text, _ := commandline.Run("__complete", "token", "delete", "")
		Expect(text).To(HavePrefix(id + "\track 7\n:"))
		Expect(dray("delete", id)).To(Equal("token " + id + " deleted\n"))
		_, code := commandline.Run("token", "list", "-o", "table")
		Expect(code).To(Equal(1))
	})

	It("is for the usual shells", func() {
		for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
			text, code := commandline.Run("completion", shell)
			Expect(code).To(BeZero())
			Expect(text).To(And(ContainSubstring("__complete"), ContainSubstring("__dray_")))
		}
		text, _ := commandline.Run("completion", "bash")
		check := exec.Command("bash", "-n")
		check.Stdin = strings.NewReader(text)
		Expect(check.CombinedOutput()).To(BeEmpty())
	})
})
