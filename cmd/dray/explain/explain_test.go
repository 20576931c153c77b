package explain

import (
	"bytes"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"drayage.dev/scheduler"
)

var _ = Describe("dray explain", func() {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	text := func(e *scheduler.Explanation) string {
		GinkgoHelper()
		e.Pod = pod
		var out bytes.Buffer
		Expect(write(&out, e)).To(Succeed())
		return out.String()
	}

	It("shows scores and refusals in one table", func() {
		Expect(text(&scheduler.Explanation{
			Plugins: []string{"NodeResourcesFit", "NodeAffinity"},
			Nodes: []scheduler.NodeExplanation{
				{Name: "node-a", Total: 87, Scores: map[string]int64{"NodeResourcesFit": 87}},
				{Name: "node-b", RefusedBy: "NodeResourcesFit", Reasons: []string{"Insufficient cpu", "Insufficient memory"}},
			},
		})).To(Equal(strings.TrimLeft(`
Pod default/web is on no node. 1 of 2 nodes would take it now.

NODE    TOTAL  NodeResourcesFit  NodeAffinity  REFUSED
node-a  87     87                -
node-b  -      -                 -             NodeResourcesFit: Insufficient cpu, Insufficient memory
`, "\n")))
	})

	It("shows why no node would do", func() {
		Expect(text(&scheduler.Explanation{
			Plugins: []string{"NodeResourcesFit"},
			Nodes:   []scheduler.NodeExplanation{{Name: "node-b", RefusedBy: "TaintToleration", Reasons: []string{"node(s) had untolerated taint(s)"}}},
		})).To(Equal(strings.TrimLeft(`
Pod default/web is on no node. 0 of 1 nodes would take it now.

NODE    TOTAL  REFUSED
node-b  -      TaintToleration: node(s) had untolerated taint(s)
`, "\n")))
		Expect(text(&scheduler.Explanation{Refusal: "VolumeBinding: no such claim"})).To(
			Equal("Pod default/web is on no node. No node would take it now: VolumeBinding: no such claim.\n"))
	})

	It("takes pods by name and nothing else", func() {
		Expect(podName([]string{"pod", "web"})).To(Equal("web"))
		Expect(podName([]string{"pod/web"})).To(Equal("web"))
		for _, args := range [][]string{nil, {"pod"}, {"pod/"}, {"pod", "a", "b"}} {
			_, err := podName(args)
			Expect(err).To(MatchError(ContainSubstring("name a pod")))
		}
		_, err := podName([]string{"deployment", "web"})
		Expect(err).To(MatchError(ContainSubstring("only pods can")))
	})
})
