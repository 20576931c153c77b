package podworker

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	dcorev1 "drayage.dev/apis/core/v1"
)

// Ref names a pod as the object of an event, or one of its containers.
func Ref(pod *corev1.Pod, container *corev1.Container) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{
		APIVersion: dcorev1.GroupVersion.String(), Kind: "Pod",
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container == nil {
		return ref
	}
	ref.FieldPath = "spec.containers{" + container.Name + "}"
	for c, kind := range podutil.ContainerIter(&pod.Spec, podutil.InitContainers) {
		if kind == podutil.InitContainers && c.Name == container.Name {
			ref.FieldPath = "spec.initContainers{" + container.Name + "}"
		}
	}
	return ref
}

// PodRecorder makes events of upstream's code, which names core pods, name ours.
type PodRecorder struct{ record.EventRecorder }

func renamed(object runtime.Object) runtime.Object {
	if pod, ok := object.(*corev1.Pod); ok {
		return Ref(pod, nil)
	}
	return object
}

// WithLogger implements record.EventRecorderLogger.
func (r PodRecorder) WithLogger(klog.Logger) record.EventRecorderLogger { return r }

// Event implements record.EventRecorder.
func (r PodRecorder) Event(object runtime.Object, eventType, reason, message string) {
	r.EventRecorder.Event(renamed(object), eventType, reason, message)
}

// Eventf implements record.EventRecorder.
func (r PodRecorder) Eventf(object runtime.Object, eventType, reason, format string, args ...any) {
	r.EventRecorder.Eventf(renamed(object), eventType, reason, format, args...)
}

// AnnotatedEventf implements record.EventRecorder.
func (r PodRecorder) AnnotatedEventf(object runtime.Object, annotations map[string]string, eventType, reason, format string, args ...any) {
	r.EventRecorder.AnnotatedEventf(renamed(object), annotations, eventType, reason, format, args...)
}
