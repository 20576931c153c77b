package admission_test

import (
	"context"
	"encoding/json"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/admission"
)

// patchLog is a PodPatcher that holds one pod's metadata.
type patchLog struct {
	pod       metav1.ObjectMeta
	patches   []string
	conflicts int
	gone      bool
}

func (l *patchLog) PatchPod(_ context.Context, _, name string, patch []byte) (*metav1.ObjectMeta, error) {
	l.patches = append(l.patches, string(patch))
	var wanted struct {
		Metadata struct {
			ResourceVersion string
			Finalizers      *[]string
			Annotations     map[string]string
		}
	}
	Expect(json.Unmarshal(patch, &wanted)).To(Succeed())
	switch {
	case l.gone:
		return nil, apierrors.NewNotFound(dcorev1.Resource("pods"), name)
	case wanted.Metadata.Annotations != nil && wanted.Metadata.ResourceVersion != "" && wanted.Metadata.ResourceVersion != l.pod.ResourceVersion:
		return nil, apierrors.NewConflict(dcorev1.Resource("pods"), name, nil)
	case wanted.Metadata.Annotations != nil:
		l.pod.Annotations = wanted.Metadata.Annotations
	case wanted.Metadata.Finalizers != nil && l.conflicts > 0:
		l.conflicts--
		return nil, apierrors.NewConflict(dcorev1.Resource("pods"), name, nil)
	case wanted.Metadata.Finalizers != nil:
		Expect(wanted.Metadata.ResourceVersion).To(Equal(l.pod.ResourceVersion))
		l.pod.Finalizers = *wanted.Metadata.Finalizers
	}
	return l.pod.DeepCopy(), nil
}

var _ = Describe("PrepareDelete", func() {
	var pods *patchLog
	BeforeEach(func() {
		pods = &patchLog{pod: metav1.ObjectMeta{ResourceVersion: "7", Finalizers: []string{"example.com/mine", dcorev1.NodeFinalizer}}}
	})
	remove := func(ctx context.Context, seconds int64, change func(*corev1.Pod)) error {
		pod := newPod()
		pod.UID = "u"
		pod.Finalizers = []string{dcorev1.NodeFinalizer}
		if change != nil {
			change(pod)
		}
		_, err := admission.PrepareDelete(ctx, pod, &metav1.DeleteOptions{GracePeriodSeconds: ptr.To(seconds)}, false, pods)
		return err
	}

	It("writes only what the agent would not know", func(ctx context.Context) {
		Expect(remove(ctx, 30, nil)).To(Succeed(), "the default")
		Expect(remove(ctx, 5, func(p *corev1.Pod) { p.Finalizers = nil })).To(Succeed(), "nobody waits")
		Expect(pods.patches).To(BeEmpty())
		Expect(remove(ctx, -1, nil)).To(Succeed())
		Expect(pods.patches).To(ConsistOf(MatchJSON(`{"metadata":{"uid":"u","annotations":{"drayage.dev/deletion-grace-period-seconds":"1"}}}`)))
	})

	It("takes our finalizer off for a forced deletion, however busy the pod", func(ctx context.Context) {
		pods.conflicts = 2
		Expect(remove(ctx, 0, nil)).To(Succeed())
		Expect(pods.pod.Finalizers).To(Equal([]string{"example.com/mine"}))
		pods.pod.Finalizers, pods.conflicts = []string{dcorev1.NodeFinalizer}, 100
		Expect(apierrors.IsConflict(remove(ctx, 0, nil))).To(BeTrue())
	})

	It("leaves the finalizer where the deletion has begun, also unknown to the request", func(ctx context.Context) {
		pods.pod.DeletionTimestamp = ptr.To(metav1.Now())
		Expect(remove(ctx, 0, nil)).To(Succeed())
		Expect(pods.patches).To(HaveLen(1))
		Expect(pods.pod.Finalizers).To(ContainElement(dcorev1.NodeFinalizer))
	})

	It("gives no more time to a pod whose deletion has begun, also unknown to the request", func(ctx context.Context) {
		pods.pod.DeletionTimestamp = ptr.To(metav1.Now())
		pods.pod.Annotations = map[string]string{dcorev1.DeletionGracePeriodAnnotation: "5"}
		older := func(p *corev1.Pod) { p.ResourceVersion = "3" }
		Expect(remove(ctx, 60, older)).To(Succeed())
		Expect(pods.pod.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "5"))
		Expect(remove(ctx, 2, older)).To(Succeed())
		Expect(pods.pod.Annotations).To(HaveKeyWithValue(dcorev1.DeletionGracePeriodAnnotation, "2"))
	})

	It("leaves a pod that has gone to the deletion", func(ctx context.Context) {
		pods.gone = true
		Expect(remove(ctx, 0, nil)).To(Succeed())
	})
})
