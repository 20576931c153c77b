package pod

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dcorev1 "drayage.dev/apis/core/v1"
)

// terminating is the status column of a pod that is being deleted, as kubectl prints it.
const terminating = "Terminating"

// collect does what is to be done about one pod. It returns when to look again, zero for not before
// something changes.
func (r *reconciler) collect(ctx context.Context, pod *dcorev1.Pod) (time.Duration, error) {
	ends := pod.DeletionTimestamp != nil
	if ends && !slices.Contains(pod.Finalizers, dcorev1.NodeFinalizer) {
		return 0, nil // somebody else's finalizer holds it
	}
	if ends && (pod.Spec.NodeName == "" || pod.Annotations[dcorev1.DeletionGracePeriodAnnotation] == "0") {
		return 0, r.release(ctx, pod)
	}
	if pod.Spec.NodeName == "" {
		return 0, nil
	}
	node := &dcorev1.Node{}
	err := r.client.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node, client.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		return r.collectOrphan(ctx, pod)
	case err != nil:
		return 0, fmt.Errorf("reading the node of pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	r.missing.forget(node.Name)
	if !ends || ready(node) {
		return 0, nil
	}
	if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) {
		// Somebody vouches that the machine is off.
		return 0, r.release(ctx, pod)
	}
	return 0, r.showTerminating(ctx, pod)
}

// collectOrphan ends a pod whose node does not exist: not at once, since the node may be about to be
// registered again.
func (r *reconciler) collectOrphan(ctx context.Context, pod *dcorev1.Pod) (time.Duration, error) {
	if wait := r.missing.wait(pod.Spec.NodeName); wait > 0 {
		return wait, nil
	}
	node := &metav1.PartialObjectMetadata{}
	node.SetGroupVersionKind(dcorev1.GroupVersion.WithKind("Node"))
	err := r.live.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node)
	if err == nil {
		return r.quarantine, nil // the cache is behind
	}
	if !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("looking for the node of pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	if pod.DeletionTimestamp == nil {
		if err := r.fail(ctx, pod); err != nil {
			return 0, err
		}
		log.FromContext(ctx).Info("deleted a pod whose node is gone", "node", pod.Spec.NodeName)
		// The deletion starts the pass that takes the finalizer off.
		return 0, r.remove(ctx, pod)
	}
	return 0, r.release(ctx, pod)
}

// fail says of a pod that will never report again that it has failed.
func (r *reconciler) fail(ctx context.Context, pod *dcorev1.Pod) error {
	if podutil.IsPodPhaseTerminal(pod.Status.Phase) {
		return nil
	}
	base := pod.DeepCopy()
	pod.Status.Phase = corev1.PodFailed
	pod.Status.Summary.Status = string(corev1.PodFailed)
	podutil.UpdatePodCondition(&pod.Status.PodStatus, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: dcorev1.PodDeletionByPodGC,
		Message: "The pod's node does not exist any more.",
	})
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Status().Patch(ctx, pod, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("failing pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	return nil
}

// release takes the node's finalizer off. The resource version makes sure that what was decided upon is
// still so: a pod that was bound this moment has an agent.
func (r *reconciler) release(ctx context.Context, pod *dcorev1.Pod) error {
	base := pod.DeepCopy()
	pod.Finalizers = slices.DeleteFunc(pod.Finalizers, func(name string) bool { return name == dcorev1.NodeFinalizer })
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, pod, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("releasing pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	return nil
}

func (r *reconciler) remove(ctx context.Context, pod *dcorev1.Pod) error {
	err := r.client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	return nil
}

// showTerminating sums a terminating pod up whose agent is not there to do it.
func (r *reconciler) showTerminating(ctx context.Context, pod *dcorev1.Pod) error {
	if pod.Status.Summary.Status == terminating {
		return nil
	}
	base := pod.DeepCopy()
	pod.Status.Summary.Status = terminating
	if err := r.client.Status().Patch(ctx, pod, client.MergeFrom(base)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("summing up pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	return nil
}

func ready(node *dcorev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
