package scheduler

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// patchStatus carries out the strategic merge patch that the framework sends. Custom resources know no
// strategic merge, so the patch is applied here and its outcome sent as a merge patch.
func (w *podWriter) patchStatus(ctx context.Context, namespace, name string, patch []byte) (*corev1.Pod, error) {
	pod, err := w.cached.Pods(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	err = w.updateStatus(ctx, pod, func(status *corev1.PodStatus) error {
		before, err := json.Marshal(corev1.Pod{Status: *status})
		if err != nil {
			return err
		}
		after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Pod{})
		if err != nil {
			return err
		}
		var patched corev1.Pod
		if err := json.Unmarshal(after, &patched); err != nil {
			return err
		}
		status.Conditions = patched.Status.Conditions
		status.NominatedNodeName = patched.Status.NominatedNodeName
		return nil
	})
	return pod, err
}

// updateStatus writes what change does to the conditions and to the nominated node, and nothing else of
// the status. The patch replaces the whole list of conditions, so it holds for the version that it was
// made from only; change is applied anew when another writer was faster.
func (w *podWriter) updateStatus(ctx context.Context, pod *corev1.Pod, change func(*corev1.PodStatus) error) error {
	uid := pod.UID
	for attempt := 1; ; attempt++ {
		status := pod.Status.DeepCopy()
		if err := change(status); err != nil {
			return fmt.Errorf("changing the status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		body, err := statusPatch(pod, status)
		if err != nil || body == nil {
			return err
		}
		err = w.patch(ctx, pod, body, "status")
		if !apierrors.IsConflict(err) || attempt == maxConflicts {
			return err
		}
		if pod, err = w.live(ctx, pod.Namespace, pod.Name); err != nil {
			return err
		}
		if pod.UID != uid {
			return nil // it was about a pod that has gone
		}
	}
}

// statusPatch returns the merge patch from pod's status to status, nil when they agree.
func statusPatch(pod *corev1.Pod, status *corev1.PodStatus) ([]byte, error) {
	fields := map[string]any{}
	if !equality.Semantic.DeepEqual(pod.Status.Conditions, status.Conditions) {
		fields["conditions"] = status.Conditions
	}
	if pod.Status.NominatedNodeName != status.NominatedNodeName {
		fields["nominatedNodeName"] = status.NominatedNodeName
		if status.NominatedNodeName == "" {
			fields["nominatedNodeName"] = nil
		}
	}
	if len(fields) == 0 {
		return nil, nil
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion},
		"status":   fields,
	})
}
