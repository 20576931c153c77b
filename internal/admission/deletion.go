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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	dcorev1 "drayage.dev/apis/core/v1"
)

// PodPatcher changes Drayage pods in the API.
type PodPatcher interface {
	// PatchPod applies a patch of the given type to a pod.
	PatchPod(ctx context.Context, namespace, name string, kind types.PatchType, patch []byte) error
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
	finalizer := slices.Index(pod.Finalizers, dcorev1.NodeFinalizer)
	if finalizer < 0 || !changesGracePeriod(pod, seconds) || dryRun {
		return nil, nil
	}
	if options.Preconditions != nil && options.Preconditions.ResourceVersion != nil {
		return []string{fmt.Sprintf("gracePeriodSeconds %d is not taken: it would change the pod, whose resourceVersion the deletion insists on; set the annotation %s instead", seconds, dcorev1.DeletionGracePeriodAnnotation)}, nil
	}
	if err := annotateGracePeriod(ctx, pod, seconds, pods); err != nil {
		return nil, err
	}
	if seconds > 0 || pod.DeletionTimestamp != nil {
		return nil, nil
	}
	return nil, removeFinalizer(ctx, pod, finalizer, pods)
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

func annotateGracePeriod(ctx context.Context, pod *corev1.Pod, seconds int64, pods PodPatcher) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         pod.UID,
		"annotations": map[string]string{dcorev1.DeletionGracePeriodAnnotation: strconv.FormatInt(seconds, 10)},
	}})
	if err != nil {
		return err
	}
	return pods.PatchPod(ctx, pod.Namespace, pod.Name, types.MergePatchType, patch)
}

// removeFinalizer takes the finalizer off that stands at index. The test in the patch makes it fail when
// it has moved since.
func removeFinalizer(ctx context.Context, pod *corev1.Pod, index int, pods PodPatcher) error {
	path := "/metadata/finalizers/" + strconv.Itoa(index)
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": pod.UID},
		{"op": "test", "path": path, "value": dcorev1.NodeFinalizer},
		{"op": "remove", "path": path},
	})
	if err != nil {
		return err
	}
	switch err := pods.PatchPod(ctx, pod.Namespace, pod.Name, types.JSONPatchType, patch); {
	case err == nil, apierrors.IsNotFound(err):
		return nil
	case apierrors.IsInvalid(err):
		return apierrors.NewConflict(dcorev1.Resource("pods"), pod.Name, fmt.Errorf("removing the finalizer %s: the pod has changed", dcorev1.NodeFinalizer))
	default:
		return err
	}
}
