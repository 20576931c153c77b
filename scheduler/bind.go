package scheduler

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dcorev1 "drayage.dev/apis/core/v1"
)

// maxConflicts bounds how often a write is tried anew on a newer version of the pod. Others write a
// pending pod rarely, so a second conflict in a row is news already.
const maxConflicts = 5

// bind assigns a pod to a node as upstream's Binding subresource does: once, never a pod that is being
// deleted, gated, or another of the same name. The API server's own rule keeps the node name from ever
// changing; the resource version keeps the decision from meeting a pod that has begun to terminate.
func (w *podWriter) bind(ctx context.Context, binding *corev1.Binding) error {
	node, err := w.nodes.Get(binding.Target.Name)
	if err != nil {
		return fmt.Errorf("binding pod %s/%s: its node has gone: %w", binding.Namespace, binding.Name, err)
	}
	pod, err := w.cached.Pods(binding.Namespace).Get(binding.Name)
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		if pod.UID == binding.UID && pod.Spec.NodeName == binding.Target.Name {
			return nil // an earlier attempt whose answer was lost
		}
		if reason := unbindable(pod, binding); reason != "" {
			return apierrors.NewConflict(dcorev1.Resource("pods"), binding.Name, fmt.Errorf("%s", reason))
		}
		body, err := bindPatch(pod, node)
		if err != nil {
			return fmt.Errorf("binding pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		refused := w.patch(ctx, pod, body)
		// Admission judges the patched pod before the server compares versions, so that a patch of an old
		// version may be invalid instead of in conflict.
		if attempt == maxConflicts || !apierrors.IsConflict(refused) && !apierrors.IsInvalid(refused) {
			return refused
		}
		known := pod.ResourceVersion
		if pod, err = w.live(ctx, binding.Namespace, binding.Name); err != nil {
			return err
		}
		if pod.ResourceVersion == known {
			return refused
		}
	}
}

func unbindable(pod *corev1.Pod, binding *corev1.Binding) string {
	switch {
	case binding.UID != "" && pod.UID != binding.UID:
		return fmt.Sprintf("the pod was replaced, its UID is %s now", pod.UID)
	case pod.DeletionTimestamp != nil:
		return "the pod is being deleted, cannot be assigned to a host"
	case pod.Spec.NodeName != "":
		return fmt.Sprintf("the pod is already assigned to node %q", pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return "the pod has scheduling gates"
	}
	return ""
}

// bindPatch assigns pod to node, under the condition that the pod is the version that we know. The pod
// takes over the node's zone and region, as upstream's admission of bindings has it.
func bindPatch(pod *corev1.Pod, node *corev1.Node) ([]byte, error) {
	metadata := map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion}
	if metav1.GetControllerOfNoCopy(pod) != nil {
		// Ends the tracking of managed fields, the largest part of every later write's cost. A pod that
		// a person applied keeps it.
		metadata["managedFields"] = []any{map[string]any{}}
	}
	labels := map[string]string{}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if value, ok := node.Labels[key]; ok {
			labels[key] = value
		}
	}
	if len(labels) > 0 {
		metadata["labels"] = labels
	}
	return json.Marshal(map[string]any{
		"metadata": metadata,
		"spec":     map[string]any{"nodeName": node.Name},
	})
}
