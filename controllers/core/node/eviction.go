package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dcorev1 "drayage.dev/apis/core/v1"
)

// comparison says whether the operators Lt and Gt of tolerations count: upstream's default.
const comparison = false

// evictAt returns when a pod has to leave a node with these NoExecute taints; false means never. A taint
// is tolerated by the first toleration that fits it, for as long as that says, counted from when the
// taint was added.
func evictAt(pod *dcorev1.Pod, taints []corev1.Taint, since func(*corev1.Taint) time.Time) (at time.Time, evict bool) {
	for i := range taints {
		added := since(&taints[i])
		deadline, forever := added, false
		for j := range pod.Spec.Tolerations {
			toleration := &pod.Spec.Tolerations[j]
			if !toleration.ToleratesTaint(klog.Background(), &taints[i], comparison) {
				continue
			}
			if toleration.TolerationSeconds == nil {
				forever = true
			} else {
				deadline = added.Add(time.Duration(max(*toleration.TolerationSeconds, 0)) * time.Second)
			}
			break
		}
		if !forever && (!evict || deadline.Before(at)) {
			at, evict = deadline, true
		}
	}
	return at, evict
}

// evict deletes the pods that have to leave the node by now and returns how long it is until the next
// one has to; zero means that none has.
func (r *reconciler) evict(ctx context.Context, node *dcorev1.Node, pods []dcorev1.Pod) (time.Duration, error) {
	var taints []corev1.Taint
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, taint)
		}
	}
	if len(taints) == 0 {
		r.firstSeen.forget(node.Name)
		return 0, nil
	}
	now, settled := r.clock.Now(), r.heartbeats.settled()
	since := func(taint *corev1.Taint) time.Time { return r.firstSeen.since(node.Name, taint, now) }
	var next time.Duration
	var failures []error
	for i := range pods {
		pod := &pods[i]
		if pod.DeletionTimestamp != nil {
			continue
		}
		at, leave := evictAt(pod, taints, since)
		if !leave {
			continue
		}
		if evicts(node) && at.Before(settled) {
			at = settled // whether the node is lost is not known yet
		}
		if wait := at.Sub(now); wait > 0 {
			if next == 0 || wait < next {
				next = wait
			}
			continue
		}
		if err := r.evictPod(ctx, pod.DeepCopy()); err != nil {
			failures = append(failures, err)
		}
	}
	return next, errors.Join(failures...)
}

// evictPod deletes a pod and says in its status why.
func (r *reconciler) evictPod(ctx context.Context, pod *dcorev1.Pod) error {
	base := pod.DeepCopy()
	if podutil.UpdatePodCondition(&pod.Status.PodStatus, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(r.clock.Now()),
		Reason: dcorev1.PodDeletionByTaintManager, Message: "The node controller deletes the pod because of a NoExecute taint of its node.",
	}) {
		patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
		if err := r.client.Status().Patch(ctx, pod, patch); err != nil {
			return fmt.Errorf("patching the status of pod %s before its eviction: %w", client.ObjectKeyFromObject(pod), client.IgnoreNotFound(err))
		}
	}
	r.recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", client.ObjectKeyFromObject(pod))
	if err := r.client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("evicting pod %s: %w", client.ObjectKeyFromObject(pod), err)
	}
	return nil
}

// markNotReady says of the pods of a node that is not heard of that they are not ready, so that their
// endpoints go. The agent says otherwise when it is back.
func (r *reconciler) markNotReady(ctx context.Context, pods []dcorev1.Pod) error {
	var failures []error
	for i := range pods {
		if !podutil.IsPodReady(&corev1.Pod{Status: pods[i].Status.PodStatus}) {
			continue
		}
		pod := pods[i].DeepCopy()
		base := pod.DeepCopy()
		_, condition := podutil.GetPodCondition(&pod.Status.PodStatus, corev1.PodReady)
		condition.Status, condition.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(r.clock.Now())
		condition.Reason, condition.Message = "NodeNotReady", "The pod's node is not heard of."
		patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
		if err := r.client.Status().Patch(ctx, pod, patch); client.IgnoreNotFound(err) != nil {
			failures = append(failures, fmt.Errorf("marking pod %s as not ready: %w", client.ObjectKeyFromObject(pod), err))
			continue
		}
		r.recorder.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return errors.Join(failures...)
}
