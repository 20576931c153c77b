package certs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/retry"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/webhooks"
)

// fieldManager owns the bundles.
const fieldManager = "drayage-certs"

// APIService is the name of the registration of the aggregated API.
var APIService = subresourcesv1alpha1.GroupVersion.Version + "." + subresourcesv1alpha1.GroupVersion.Group

// Registration is an object by which an API server finds Drayage's servers.
type Registration struct {
	Resource schema.GroupVersionResource
	Name     string
	// trust puts a bundle, in base64, into an object of it.
	trust func(object *unstructured.Unstructured, bundle string) (changed bool)
}

// Registrations are all of them, the one that stalls the deletion of namespaces first.
func Registrations() []Registration {
	webhook := schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}
	return []Registration{
		{schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}, APIService, apiServiceBundle},
		{webhook.WithResource("mutatingwebhookconfigurations"), webhooks.ConfigurationName, webhookBundles},
		{webhook.WithResource("validatingwebhookconfigurations"), webhooks.ConfigurationName, webhookBundles},
	}
}

func apiServiceBundle(object *unstructured.Unstructured, bundle string) (changed bool) {
	return setBundle(object.Object, bundle, "spec", "caBundle")
}

func webhookBundles(object *unstructured.Unstructured, bundle string) (changed bool) {
	hooks, _, _ := unstructured.NestedFieldNoCopy(object.Object, "webhooks")
	list, _ := hooks.([]any)
	for _, hook := range list {
		if fields, ok := hook.(map[string]any); ok && setBundle(fields, bundle, "clientConfig", "caBundle") {
			changed = true
		}
	}
	return changed
}

func setBundle(object map[string]any, bundle string, path ...string) (changed bool) {
	if current, _, _ := unstructured.NestedString(object, path...); current == bundle {
		return false
	}
	return unstructured.SetNestedField(object, bundle, path...) == nil
}

// register makes the API server trust the bundle. A registration that is not there is not missed: whoever
// installs Drayage adds it, and the next pass finds it.
func (k *Keeper) register(ctx context.Context, bundle []byte) error {
	var errs []error
	for _, registration := range Registrations() {
		if err := k.registerOne(ctx, registration, bundle); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("writing the trusted authorities into %s %s: %w", registration.Resource.Resource, registration.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (k *Keeper) registerOne(ctx context.Context, registration Registration, bundle []byte) error {
	client := k.objects.Resource(registration.Resource)
	// Other managers do the same at the same time, and the API server writes the status of an APIService.
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		object, err := client.Get(ctx, registration.Name, metav1.GetOptions{})
		if err != nil || !registration.trust(object, base64.StdEncoding.EncodeToString(bundle)) {
			return err
		}
		_, err = client.Update(ctx, object, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
}

// publish tells the agents whom to trust.
func (k *Keeper) publish(ctx context.Context, bundle []byte) error {
	client := k.client.CoreV1().ConfigMaps(k.config.Namespace)
	raced := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	err := retry.OnError(retry.DefaultBackoff, raced, func() error {
		current, err := client.Get(ctx, ConfigMapName, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			_, err = client.Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: k.config.Namespace, Name: ConfigMapName},
				Data:       map[string]string{CAFile: string(bundle)},
			}, metav1.CreateOptions{})
		case err == nil && current.Data[CAFile] != string(bundle):
			current.Data = map[string]string{CAFile: string(bundle)}
			_, err = client.Update(ctx, current, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("telling agents whom to trust in the ConfigMap %s/%s: %w", k.config.Namespace, ConfigMapName, err)
	}
	return nil
}
