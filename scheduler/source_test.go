package scheduler

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	dcorev1 "drayage.dev/apis/core/v1"
)

var _ = Describe("a source that hides pods that have ended", func() {
	It("lets each leave once, as a field selector on the server would", func() {
		s := &source{
			view: func(o runtime.Object) runtime.Object { return podView(o.(*dcorev1.Pod)) },
			hide: func(o runtime.Object) bool { return ended(&o.(*dcorev1.Pod).Status.PodStatus) },
		}
		pod := func(uid types.UID, phase corev1.PodPhase) *dcorev1.Pod {
			p := &dcorev1.Pod{}
			p.UID, p.Status.Phase = uid, phase
			return p
		}
		// see returns the type of event that comes out, "" for none.
		see := func(kind watch.EventType, uid types.UID, phase corev1.PodPhase) watch.EventType {
			event, ok := s.viewEvent(watch.Event{Type: kind, Object: pod(uid, phase)})
			if !ok {
				return ""
			}
			Expect(event.Object).To(BeAssignableToTypeOf(&corev1.Pod{}))
			return event.Type
		}
		none := watch.EventType("")

		Expect(see(watch.Added, "a", corev1.PodRunning)).To(Equal(watch.Added))
		Expect(see(watch.Modified, "a", corev1.PodSucceeded)).To(Equal(watch.Deleted))
		Expect(see(watch.Modified, "a", corev1.PodSucceeded)).To(Equal(none))
		Expect(see(watch.Deleted, "a", corev1.PodSucceeded)).To(Equal(none))
		Expect(see(watch.Added, "a", corev1.PodRunning)).To(Equal(watch.Added), "nothing is remembered of what has gone")
		Expect(see(watch.Deleted, "a", corev1.PodRunning)).To(Equal(watch.Deleted))

		list := &dcorev1.PodList{Items: []dcorev1.Pod{*pod("b", corev1.PodFailed), *pod("c", corev1.PodPending)}}
		s.into = func(m metav1.ListMeta, items []runtime.Object) runtime.Object {
			return &corev1.PodList{ListMeta: m, Items: values[corev1.Pod](items)}
		}
		views, err := s.viewList(list)
		Expect(err).NotTo(HaveOccurred())
		Expect(views.(*corev1.PodList).Items).To(ConsistOf(HaveField("UID", types.UID("c"))))
		Expect(see(watch.Modified, "b", corev1.PodFailed)).To(Equal(none))
	})
})
