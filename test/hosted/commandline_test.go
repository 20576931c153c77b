//go:build cluster

package hosted_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
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
}
