package convert_test

import (
	"context"
	"errors"
	"io"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"drayage.dev/controlplane"
	"drayage.dev/test/env"
	"drayage.dev/webhooks"
)

var _ = Describe("a control plane", func() {
	It("accepts what was converted, and refuses what was said to be refused", func(ctx context.Context) {
		e, err := env.Start(context.WithoutCancel(ctx), env.WithAdmission(controlplane.AdmissionPlugin{
			Name: webhooks.PluginName, New: webhooks.NewPlugin,
		}))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(e.Stop()).To(Succeed()) })
		admin, err := e.Client()
		Expect(err).NotTo(HaveOccurred())

		out, notes, err := dray("", "-R", "-f", manifests)
		Expect(err).NotTo(HaveOccurred())
		decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(out), 4096)
		accepted := 0
		for {
			object := &unstructured.Unstructured{}
			if err := decoder.Decode(object); errors.Is(err, io.EOF) {
				break
			} else {
				Expect(err).NotTo(HaveOccurred())
			}
			if object.GetNamespace() == "" {
				object.SetNamespace("default")
			}
			// Several folders bring an object of the same name.
			var err error
			Eventually(func() error {
				err = client.IgnoreAlreadyExists(admin.Create(ctx, object))
				return err
			}).ShouldNot(Satisfy(apierrors.IsForbidden), "while its namespace's account is to come")
			if err == nil {
				accepted++
				continue
			}
			Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
			_, reason, _ := strings.Cut(err.Error(), "is invalid: ")
			Expect(notes).To(ContainSubstring("%s %s: will be refused: %s", object.GetKind(), object.GetName(), reason))
		}
		Expect(accepted).To(BeNumerically(">", 20))
	})
})
