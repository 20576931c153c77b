package convert_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	sigsyaml "sigs.k8s.io/yaml"

	"drayage.dev/cmd/dray/convert"
)

const manifests = "../../../test/manifests"

// dray runs the command and returns what it wrote.
func dray(in string, args ...string) (out, notes string, err error) {
	var o, e bytes.Buffer
	command := convert.NewCommand(genericiooptions.IOStreams{In: strings.NewReader(in), Out: &o, ErrOut: &e})
	command.SetArgs(args)
	command.SetOut(&o)
	command.SetErr(&e)
	err = command.Execute()
	return o.String(), e.String(), err
}

var _ = Describe("dray convert", func() {
	It("converts everything that people have, and names the rest", func() {
		out, notes, err := dray("", "-R", "-f", manifests)
		Expect(err).NotTo(HaveOccurred())
		golden("testdata/manifests.golden.yaml", out)
		golden("testdata/manifests.golden.txt", strings.ReplaceAll(notes, manifests+"/", ""))

		again, _, err := dray(out, "-f", "-")
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.Count(again, "apiVersion:")).To(BeNumerically(">=", strings.Count(out, "apiVersion:")), "a second time changes no group")
		Expect(again).NotTo(ContainSubstring("drayage.dev.drayage.dev"))
	})

	It("keeps comments and the order of fields", func() {
		out, notes, err := dray(`# The application.
kind: Pod # a pod
metadata:
  # its name
  name: web
apiVersion: "v1"
spec:
  containers:
    - image: web:1
      name: web
`, "-f", "-", "--strict")
		Expect(err).NotTo(HaveOccurred())
		Expect(notes).To(BeEmpty())
		Expect(out).To(Equal(`# The application.
kind: Pod # a pod
metadata:
  # its name
  name: web
apiVersion: "core.drayage.dev/v1"
spec:
  containers:
    - image: web:1
      name: web
`))
	})

	It("converts lists, typed lists and owners, and speaks JSON", func() {
		out, notes, err := dray(`
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: config}}
  - {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}}
  - apiVersion: apps/v1
    kind: ReplicaSet
    metadata:
      name: web
      ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: u}]
    spec: &spec
      selector: {matchLabels: {app: web}}
      template:
        metadata: {labels: {app: web}}
        spec: {containers: [{name: web, image: "web:1"}]}
---
apiVersion: v1
kind: ServiceList
items:
  - metadata: {name: web}
    spec: {ports: [{port: 80}]}
`, "-f", "-", "-o", "json")
		Expect(err).NotTo(HaveOccurred())
		Expect(notes).To(Equal("standard input: PersistentVolumeClaim data: left out: Drayage has no PersistentVolumeClaim\n" +
			"2 converted (0 of them will be refused), 1 unchanged, 1 left out\n"))
		documents := strings.SplitAfter(out, "\n}\n")
		Expect(documents).To(HaveLen(3))
		Expect(documents[0]).To(And(
			ContainSubstring(`"apiVersion": "v1"`), ContainSubstring(`"apiVersion": "apps.drayage.dev/v1"`),
			Not(ContainSubstring(`"apps/v1"`)), Not(ContainSubstring("PersistentVolumeClaim")),
		))
		Expect(documents[1]).To(MatchJSON(`{"apiVersion": "core.drayage.dev/v1", "kind": "ServiceList", "items": [
			{"apiVersion": "core.drayage.dev/v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}]}`))
	})

	It("converts budgets, and says what is wrong with one", func() {
		out, notes, err := dray("{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web}, "+
			"spec: {minAvailable: 1, maxUnavailable: 20%, selector: {matchLabels: {app: web}}}}", "-f", "-")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(ContainSubstring("apiVersion: policy.drayage.dev/v1"))
		Expect(notes).To(And(ContainSubstring("will be refused"), ContainSubstring("minAvailable and maxUnavailable cannot be both set")))
	})

	It("doubles RBAC rules, for what Drayage has of them", func() {
		out, notes, err := dray(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: operator}
rules:
  - apiGroups: ["", "apps"]
    resources: [pods, pods/status, pods/log, secrets, deployments, deployments/scale, daemonsets]
    resourceNames: [web]
    verbs: [get]
  - apiGroups: ["batch"]
    resources: ["jobs"]
    verbs: ["*"]
  - nonResourceURLs: ["/healthz"]
    verbs: ["get"]
`, "-f", "-")
		Expect(err).NotTo(HaveOccurred())
		Expect(notes).To(BeEmpty())
		var role struct{ Rules []map[string][]string }
		Expect(sigsyaml.Unmarshal([]byte(out), &role)).To(Succeed())
		Expect(role.Rules).To(Equal([]map[string][]string{
			{
				"apiGroups": {"", "apps"}, "verbs": {"get"}, "resourceNames": {"web"},
				"resources": {"pods", "pods/status", "pods/log", "secrets", "deployments", "deployments/scale", "daemonsets"},
			},
			{"apiGroups": {"apps.drayage.dev"}, "resources": {"deployments", "deployments/scale"}, "resourceNames": {"web"}, "verbs": {"get"}},
			{"apiGroups": {"core.drayage.dev"}, "resources": {"pods", "pods/status"}, "resourceNames": {"web"}, "verbs": {"get"}},
			{"apiGroups": {"subresources.drayage.dev"}, "resources": {"pods/log"}, "resourceNames": {"web"}, "verbs": {"get"}},
			{"apiGroups": {"batch"}, "resources": {"jobs"}, "verbs": {"*"}},
			{"nonResourceURLs": {"/healthz"}, "verbs": {"get"}},
		}))
	})

	It("tells what Drayage will refuse, and can be strict about it", func() {
		pod := `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  runtimeClassName: gvisor
  containers:
    - {name: web, image: "web:1", imagePullPolcy: Always, volumeMounts: [{name: none, mountPath: /x}]}
`
		out, notes, err := dray(pod, "-f", "-")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(ContainSubstring("core.drayage.dev/v1"))
		Expect(notes).To(And(
			ContainSubstring("standard input: Pod shop/web: will be refused: "),
			ContainSubstring("spec.runtimeClassName: Forbidden: not implemented by Drayage yet"),
			ContainSubstring(`unknown field "spec.containers[0].imagePullPolcy"`),
			ContainSubstring(`spec.containers[0].volumeMounts[0].name: Not found: "none"`),
			HaveSuffix("1 converted (1 of them will be refused), 0 unchanged, 0 left out\n"),
		))
		_, _, err = dray(pod, "-f", "-", "--strict")
		Expect(err).To(MatchError("not everything can run on Drayage, see above"))
	})

	DescribeTable("refuses what it cannot read", func(in, message string, args ...string) {
		_, _, err := dray(in, args...)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("no file", "", "name them with -f"),
		Entry("a missing file", "", "no such file", "-f", "none.yaml"),
		Entry("an empty directory", "", "has no .yaml, .yml or .json file", "-f", manifests),
		Entry("no YAML", "a: [", "reading standard input: yaml:", "-f", "-"),
		Entry("an output format", "", "yaml or json", "-f", "-", "-o", "xml"),
	)

	It("names what is no object or of another version", func() {
		_, notes, err := dray("just text\n---\nfoo: bar\n---\napiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: old}\n", "-f", "-")
		Expect(err).NotTo(HaveOccurred())
		Expect(notes).To(And(
			ContainSubstring("it is no mapping"),
			ContainSubstring("it needs an apiVersion and a kind"),
			ContainSubstring("Deployment old: left out: Drayage has Deployment in version v1 only, not v1beta1"),
		))
	})

	It("reads the same from a file and from its directory", func() {
		one, _, err := dray("", "-f", filepath.Join(manifests, "basics/pod.yaml"))
		Expect(err).NotTo(HaveOccurred())
		all, _, err := dray("", "-f", filepath.Join(manifests, "basics"))
		Expect(err).NotTo(HaveOccurred())
		Expect(all).To(ContainSubstring(one))
	})
})

// golden compares text with a file. UPDATE_GOLDEN=1 writes the file: right after Drayage has learnt a kind
// or a field, never to make a test pass that nobody has looked at.
func golden(file, text string) {
	GinkgoHelper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		Expect(os.WriteFile(file, []byte(text), 0o644)).To(Succeed())
	}
	want, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	Expect(text).To(Equal(string(want)), "UPDATE_GOLDEN=1 writes %s", file)
}
