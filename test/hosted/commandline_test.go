//go:build cluster

package hosted_test

import (
	"context"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

// specsOfCommandLine use `dray` with nothing but a kubeconfig of the cluster, whose own pods have the same names of
// resources.
func specsOfCommandLine() {
	It("is used by the same command line as on machines of one's own", func(ctx SpecContext) {
		dray := func(command string, args ...string) (string, error) {
			return h.run(ctx, "dray", append([]string{command, "--namespace", team}, args...)...)
		}
		pod := running(ctx, "myapp")()[0]
		for _, name := range []string{pod.Name, "deployment/myapp", "pod/" + pod.Name} {
			Expect(dray("logs", name)).To(ContainSubstring("serves on"), name)
		}
		Expect(dray("explain", "pod", pod.Name)).To(And(ContainSubstring(pod.Spec.NodeName), ContainSubstring("would take it now")))
		Expect(dray("rollout", "status", "deployment/myapp")).To(ContainSubstring("successfully rolled out"))
		Expect(dray("rollout", "history", "deployment/myapp")).To(ContainSubstring("REVISION"))
		_, err := dray("exec", pod.Name, "--", "/no-such-program")
		Expect(err).To(MatchError(ContainSubstring("no-such-program")), "it came to the container")

		Expect(dray("delete", "pod", pod.Name, "--grace-period=1")).To(ContainSubstring(pod.Name))
		Eventually(running(ctx, "myapp")).Should(And(HaveLen(3), Not(ContainElement(HaveField("UID", pod.UID)))))
	}, SpecTimeout(2*time.Minute))

	It("finds with dray net check what is broken, and what is not", func(ctx SpecContext) {
		out, err := h.run(ctx, "dray", "net", "check")
		Expect(err).NotTo(HaveOccurred(), out)
		Expect(out).To(ContainSubstring("0 of "))
		pod := running(ctx, "myapp")()[0]
		check := func() (string, error) {
			return h.run(ctx, "dray", "net", "check", "--from", "pod/"+team+"/"+pod.Name, "--to", "service/"+team+"/myapp", "-v")
		}
		Eventually(check).Should(And(ContainSubstring("pod "+team+"/"+pod.Name+" connects to service "+team+"/myapp at "),
			ContainSubstring("pod "+team+"/"+pod.Name+" resolves myapp."+team+".svc.cluster.local. to ")))
		By("naming the service that leads nowhere")
		nobody := &dcorev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "nobody"}}
		nobody.Spec.Selector, nobody.Spec.Ports = map[string]string{"app": "nobody"}, []corev1.ServicePort{{Port: 80}}
		Expect(h.api.Create(ctx, nobody)).To(Succeed())
		Eventually(func() error {
			_, err := h.run(ctx, "dray", "net", "check", "--to", "service/"+team+"/nobody")
			return err
		}).Should(MatchError(ContainSubstring("its selector app=nobody matches no pod of namespace " + team)))
		Expect(h.api.Delete(ctx, nobody)).To(Succeed())
	}, SpecTimeout(2*time.Minute))

	It("drains a node of Drayage's pods, and of nothing else", func(ctx SpecContext) {
		m := h.machines[1]
		before := ordinary(ctx, m)
		Expect(before).NotTo(BeEmpty())
		done := h.probing("http://" + h.drayageService(ctx, "myapp") + "/health")
		out, err := h.run(ctx, "dray", "drain", m.name, "--delete-emptydir-data", "--timeout=90s")
		Expect(err).NotTo(HaveOccurred(), out)
		Expect(running(ctx, "myapp")()).To(And(HaveLen(3), HaveEach(HaveField("Spec.NodeName", Not(Equal(m.name))))))
		host := &corev1.Node{}
		Expect(h.api.Get(ctx, client.ObjectKey{Name: m.name}, host)).To(Succeed())
		Expect(host.Spec.Unschedulable).To(BeFalse(), "the cluster's own node is not Drayage's to cordon")
		Expect(ordinary(ctx, m)).To(Equal(before))
		done()

		By("and takes it back into service")
		Expect(h.run(ctx, "dray", "uncordon", m.name)).To(ContainSubstring("uncordoned"))
		Expect(h.run(ctx, "dray", "rollout", "restart", "deployment/myapp", "--namespace", team)).Error().NotTo(HaveOccurred())
		Expect(h.run(ctx, "dray", "rollout", "status", "deployment/myapp", "--namespace", team)).Error().NotTo(HaveOccurred())
		Eventually(running(ctx, "myapp")).Should(And(HaveLen(3), ContainElement(HaveField("Spec.NodeName", m.name)),
			ContainElement(HaveField("Spec.NodeName", h.machines[0].name))))
	}, SpecTimeout(4*time.Minute))
}

// ordinary are the UIDs of the cluster's own pods on a machine.
func ordinary(ctx context.Context, m *machine) (found []types.UID) {
	GinkgoHelper()
	list := &corev1.PodList{}
	Expect(h.api.List(ctx, list, client.MatchingFields{"spec.nodeName": m.name})).To(Succeed())
	for _, pod := range list.Items {
		found = append(found, pod.UID)
	}
	slices.Sort(found)
	return found
}
