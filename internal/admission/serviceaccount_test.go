package admission_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"drayage.dev/internal/admission"
)

var _ = Describe("a pod's token", func() {
	It("stays where a client sends its manifest again, which upstream refuses", func(ctx context.Context) {
		manifest := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
			Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{{Name: "first", Image: "first:1"}},
				Containers:     []corev1.Container{{Name: "web", Image: "web:1"}},
			},
		}
		lookup := newLookup()
		stored := manifest.DeepCopy()
		_, errs := admission.Prepare(ctx, stored, lookup)
		Expect(errs).To(BeEmpty())
		stored.UID, stored.ResourceVersion = "u", "1"
		Expect(stored.Spec.Volumes).To(HaveLen(1))
		Expect(stored.Spec.Containers[0].VolumeMounts).To(HaveLen(1))

		again := stored.DeepCopy()
		again.Spec.Volumes, again.Spec.InitContainers, again.Spec.Containers = nil, manifest.DeepCopy().Spec.InitContainers, manifest.DeepCopy().Spec.Containers
		again.Spec.Containers[0].Image = "web:2"
		_, errs = admission.PrepareObject(ctx, again, stored.DeepCopy(), lookup)
		Expect(errs).To(BeEmpty())
		Expect(again.Spec.Volumes).To(Equal(stored.Spec.Volumes))
		Expect(again.Spec.InitContainers[0].VolumeMounts).To(Equal(stored.Spec.InitContainers[0].VolumeMounts))
		Expect(again.Spec.Containers[0].VolumeMounts).To(Equal(stored.Spec.Containers[0].VolumeMounts))
		Expect(again.Spec.Containers[0].Image).To(Equal("web:2"))
	})
})
