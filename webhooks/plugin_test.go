package webhooks_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// object parses a manifest and puts it into the namespace.
func object(namespace, manifest string) *unstructured.Unstructured {
	GinkgoHelper()
	u := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal([]byte(manifest), &u.Object)).To(Succeed())
	if u.GetKind() != "PriorityClass" && u.GetKind() != "Node" {
		u.SetNamespace(namespace)
	}
	return u
}

const plainPod = `
apiVersion: core.drayage.dev/v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: web, image: web, resources: {limits: {cpu: "0.1"}}}
`

var _ = Describe("the in-process plugin", func() {
	It("prepares a pod", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		pod := object(namespace, plainPod)
		Expect(api.Create(ctx, pod)).To(Succeed())
		out, err := yaml.Marshal(pod.Object)
		Expect(err).NotTo(HaveOccurred())
		fmt.Fprintln(GinkgoWriter, string(out))
	})

	DescribeTable("refuses", func(ctx context.Context, manifest string, message string) {
		namespace := newNamespace(ctx)
		u := object(namespace, manifest)
		err := api.Create(ctx, u, client.FieldValidation("Strict"))
		Expect(err).To(HaveOccurred())
		fmt.Fprintln(GinkgoWriter, err)
		Expect(err).To(MatchError(ContainSubstring(message)))
		Expect(apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(u), u))).To(BeTrue())
	},
		Entry("an unknown field", `{apiVersion: core.drayage.dev/v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: a, image: b, imagePulPolicy: Never}]}}`,
			`strict decoding error: unknown field "spec.containers[0].imagePulPolicy"`),
		Entry("a wrong type", `{apiVersion: core.drayage.dev/v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: a, image: [b]}]}}`,
			`Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal array into Go struct field Container.spec.containers.image of type string`),
		Entry("an unimplemented field", `{apiVersion: core.drayage.dev/v1, kind: Pod, metadata: {name: web}, spec: {volumes: [{name: data, persistentVolumeClaim: {claimName: c}}], containers: [{name: a, image: b}]}}`,
			`Pod.core.drayage.dev "web" is invalid: spec.volumes[0].persistentVolumeClaim: Forbidden: not implemented by Drayage yet`),
	)
})
