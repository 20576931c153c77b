package poddisruptionbudget

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dappsv1 "drayage.dev/apis/apps/v1"
)

// scale sums up how many pods the controllers of pods want, each controller once: a pod's Deployment, else
// its ReplicaSet, else whatever owns it and has a scale. Pods that nobody controls are returned by name.
func (r *reconciler) scale(ctx context.Context, pods []*corev1.Pod) (sum int32, unmanaged []string, err error) {
	wants := map[types.UID]int32{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			unmanaged = append(unmanaged, pod.Name)
			continue
		}
		if _, known := wants[owner.UID]; known {
			continue
		}
		uid, replicas, err := r.scaleOf(ctx, pod.Namespace, owner)
		switch {
		case err != nil:
			return 0, nil, err
		case uid == "":
			return 0, nil, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		wants[uid] = replicas
	}
	for _, replicas := range wants {
		sum += replicas
	}
	return sum, unmanaged, nil
}

// scaleOf returns the controller that decides how many pods like that of owner there are, and how many it
// wants; no UID where there is none.
func (r *reconciler) scaleOf(ctx context.Context, namespace string, owner *metav1.OwnerReference) (types.UID, int32, error) {
	kind := schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind)
	if kind.Group != dappsv1.GroupName || kind.Kind != "ReplicaSet" {
		return r.genericScale(ctx, namespace, owner, kind)
	}
	set := &dappsv1.ReplicaSet{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: owner.Name}, set, client.UnsafeDisableDeepCopy)
	if client.IgnoreNotFound(err) != nil {
		return "", 0, err
	}
	if err != nil || set.UID != owner.UID {
		return r.genericScale(ctx, namespace, owner, kind)
	}
	above := metav1.GetControllerOfNoCopy(set)
	if above == nil || above.Kind != "Deployment" {
		return set.UID, ptr.Deref(set.Spec.Replicas, 1), nil
	}
	deployment := &dappsv1.Deployment{}
	err = r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: above.Name}, deployment, client.UnsafeDisableDeepCopy)
	if client.IgnoreNotFound(err) != nil {
		return "", 0, err
	}
	group := schema.FromAPIVersionAndKind(above.APIVersion, above.Kind).Group
	if err != nil || deployment.UID != above.UID || group != dappsv1.GroupName {
		return r.genericScale(ctx, namespace, owner, kind)
	}
	return deployment.UID, ptr.Deref(deployment.Spec.Replicas, 1), nil
}

// genericScale asks the API for the scale of a kind that this package does not know.
func (r *reconciler) genericScale(ctx context.Context, namespace string, owner *metav1.OwnerReference, kind schema.GroupVersionKind) (types.UID, int32, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	object.SetNamespace(namespace)
	object.SetName(owner.Name)
	scale := &autoscalingv1.Scale{}
	err := r.client.SubResource("scale").Get(ctx, object, scale)
	switch {
	case apierrors.IsNotFound(err):
		return "", 0, nil
	case err != nil:
		return "", 0, fmt.Errorf("reading the scale of %s %s/%s: %w", kind.Kind, namespace, owner.Name, err)
	case scale.UID != owner.UID:
		return "", 0, nil
	}
	return scale.UID, scale.Spec.Replicas, nil
}
