package podobjects

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/internal/upstream"
)

// maxTokenSeconds bounds a token's life. Upstream binds a pod's token to the Pod, so that it dies with it. So do we
// where the API server knows our pods for what tokens can be bound to, as the embedded one does; a cluster's binds to
// core Pods only. There a short life takes the binding's place: what a stolen token opens, it opens for an hour.
const maxTokenSeconds int64 = 3600

// Token mints a token of the service account of a pod that is bound to node. The pod is read from the
// API on every request, so a pod that is gone, has ended or is bound elsewhere gets none. Errors are
// status errors: NotFound, Forbidden, or the API server's own.
func (b *Broker) Token(ctx context.Context, node string, request *subresourcesv1alpha1.PodTokenRequest) (*authenticationv1.TokenRequest, error) {
	pod := &dcorev1.Pod{}
	err := b.pods.Get().Namespace(request.Pod.Namespace).Resource("pods").Name(request.Pod.Name).Do(ctx).Into(pod)
	if err != nil {
		return nil, err
	}
	resource := dcorev1.Resource("pods")
	switch {
	case pod.UID != request.Pod.UID || podutil.IsPodPhaseTerminal(pod.Status.Phase):
		return nil, apierrors.NewNotFound(resource, request.Pod.Name)
	case pod.Spec.NodeName != node:
		return nil, apierrors.NewForbidden(resource, request.Pod.Name, fmt.Errorf("the pod is not bound to node %q", node))
	}

	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences:         request.Spec.Audiences,
		ExpirationSeconds: new(maxTokenSeconds),
	}}
	if seconds := request.Spec.ExpirationSeconds; seconds != nil && *seconds < maxTokenSeconds {
		token.Spec.ExpirationSeconds = seconds
	}
	if b.bind {
		token.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	return b.client.CoreV1().ServiceAccounts(pod.Namespace).
		CreateToken(ctx, accountOf(upstream.Pod(pod)), token, metav1.CreateOptions{})
}
