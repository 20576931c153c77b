package volumes_test

import (
	"context"
	"fmt"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// objects is a broker with what it holds in hand.
type objects struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	now        func() time.Time
	minted     int
	life       time.Duration
	tokenError error
}

func (o *objects) ConfigMap(_ context.Context, _ types.UID, name string) (*corev1.ConfigMap, error) {
	if object := o.configMaps[name]; object != nil {
		return object, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
}

func (o *objects) Secret(_ context.Context, _ types.UID, name string) (*corev1.Secret, error) {
	if object := o.secrets[name]; object != nil {
		return object, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
}

func (o *objects) Token(_ context.Context, pod types.UID, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	if o.tokenError != nil {
		return nil, o.tokenError
	}
	o.minted++
	response := request.DeepCopy()
	response.Status.Token = fmt.Sprintf("token-%d of %s for %v", o.minted, pod, request.Spec.Audiences)
	response.Status.ExpirationTimestamp = metav1.NewTime(o.now().Add(o.life))
	return response, nil
}
