package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
)

// PodPatcher changes Drayage pods in the API.
type PodPatcher interface {
	// PatchPod applies a merge patch to a pod and returns the resource version, deletion timestamp,
	// finalizers and annotations that it has then (and whatever other metadata comes with them).
	PatchPod(ctx context.Context, namespace, name string, mergePatch []byte) (*metav1.ObjectMeta, error)
}

// PrepareDelete carries a DELETE's gracePeriodSeconds to the agent: the API server ignores it for custom
// resources, so it becomes an annotation of the pod before the deletion goes on. Zero forces: our
// finalizer goes too, and the deletion removes the pod at once. A pod that is being deleted already would
// vanish with its last finalizer, and its client be told that there is none, so it gets the annotation
// only: whoever sees zero there on a terminating pod (its agent, the pod collector) takes the finalizer
// off. As upstream, such a pod can only be given less time. A dry run writes nothing.
//
// An error is the API's own, unwrapped, so that the deletion's client is answered with its code.
//
// Killed between its writes and the deletion, it leaves a pod that lives on; deleting it again works.
func PrepareDelete(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions, dryRun bool, pods PodPatcher) (warnings []string, err error) {
	if options == nil || options.GracePeriodSeconds == nil {
		return nil, nil
	}
	seconds := *options.GracePeriodSeconds
	if seconds < 0 {
		seconds = 1 // as upstream takes it
	}
	if !slices.Contains(pod.Finalizers, dcorev1.NodeFinalizer) || !changesGracePeriod(pod, seconds) || dryRun {
		return nil, nil
	}
	if options.Preconditions != nil && options.Preconditions.ResourceVersion != nil {
		return []string{fmt.Sprintf("gracePeriodSeconds %d is not taken: it would change the pod, whose resourceVersion the deletion insists on; set the annotation %s instead", seconds, dcorev1.DeletionGracePeriodAnnotation)}, nil
	}
	// A pod that has gone in the meantime is the deletion's to report.
	return nil, ignoreNotFound(applyGracePeriod(ctx, pod, seconds, pods))
}

// applyGracePeriod annotates the pod, and takes the finalizer off for a forced deletion. The pod of an
// admission request may be an older one from a cache: where more time might be given to a pod whose deletion
// has begun, the annotation insists on the version that was looked at, and the second step looks at what the
// first returns.
func applyGracePeriod(ctx context.Context, pod *corev1.Pod, seconds int64, pods PodPatcher) error {
	patch := func(metadata map[string]any) (*metav1.ObjectMeta, error) {
		metadata["uid"] = pod.UID
		data, err := json.Marshal(map[string]any{"metadata": metadata})
		if err != nil {
			return nil, err
		}
		return pods.PatchPod(ctx, pod.Namespace, pod.Name, data)
	}
	version := pod.ResourceVersion
	for attempt := 1; ; attempt++ {
		annotate := map[string]any{
			"annotations": map[string]string{dcorev1.DeletionGracePeriodAnnotation: strconv.FormatInt(seconds, 10)},
		}
		if seconds > 0 && version != "" {
			annotate["resourceVersion"] = version
		}
		current, err := patch(annotate)
		if apierrors.IsConflict(err) && attempt < maxConflicts {
			// A patch of nothing reads the pod as it is.
			if current, err = patch(map[string]any{}); err != nil {
				return err
			}
			if !changesGracePeriod(&corev1.Pod{ObjectMeta: *current, Spec: pod.Spec}, seconds) {
				return nil
			}
			version = current.ResourceVersion
			continue
		}
		if err != nil || seconds > 0 || current.DeletionTimestamp != nil || !slices.Contains(current.Finalizers, dcorev1.NodeFinalizer) {
			return err
		}
		rest := slices.DeleteFunc(current.Finalizers, func(f string) bool { return f == dcorev1.NodeFinalizer })
		_, err = patch(map[string]any{"finalizers": rest, "resourceVersion": current.ResourceVersion})
		if !apierrors.IsConflict(err) || attempt == maxConflicts {
			return err
		}
	}
}

// maxConflicts bounds how often a deletion looks anew at a pod that changes meanwhile.
const maxConflicts = 5

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// changesGracePeriod says whether the agent must learn of the grace period of a deletion.
func changesGracePeriod(pod *corev1.Pod, seconds int64) bool {
	current := ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	if value, err := strconv.ParseInt(pod.Annotations[dcorev1.DeletionGracePeriodAnnotation], 10, 64); err == nil {
		current = value
	}
	if pod.DeletionTimestamp != nil {
		return seconds < current
	}
	return seconds == 0 || seconds != current
}
