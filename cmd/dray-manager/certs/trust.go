package certs

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

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
	// bundles returns the paths, as JSON pointers, of the object's bundles, with what is there now.
	bundles func(*unstructured.Unstructured) map[string]string
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

func apiServiceBundle(object *unstructured.Unstructured) map[string]string {
	current, _, _ := unstructured.NestedString(object.Object, "spec", "caBundle")
	return map[string]string{"/spec/caBundle": current}
}

func webhookBundles(object *unstructured.Unstructured) map[string]string {
	found := map[string]string{}
	hooks, _, _ := unstructured.NestedSlice(object.Object, "webhooks")
	for i, hook := range hooks {
		fields, _ := hook.(map[string]any)
		current, _, _ := unstructured.NestedString(fields, "clientConfig", "caBundle")
		found[fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i)] = current
	}
	return found
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
	object, err := client.Get(ctx, registration.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	wanted := base64.StdEncoding.EncodeToString(bundle)
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value"`
	}
	// The webhooks are addressed by their place, which holds for this version only.
	patch := []operation{{"test", "/metadata/resourceVersion", object.GetResourceVersion()}}
	for path, current := range registration.bundles(object) {
		if current != wanted {
			patch = append(patch, operation{"add", path, wanted})
		}
	}
	if len(patch) == 1 {
		return nil
	}
	data, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, registration.Name, types.JSONPatchType, data, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// publish tells the agents whom to trust.
func (k *Keeper) publish(ctx context.Context, bundle []byte) error {
	client := k.client.CoreV1().ConfigMaps(k.config.Namespace)
	current, err := client.Get(ctx, ConfigMapName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		current = &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: k.config.Namespace, Name: ConfigMapName},
			Data:       map[string]string{CAFile: string(bundle)},
		}
		if _, err = client.Create(ctx, current, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			return nil // another manager was faster, with the same
		}
	case err == nil && !bytes.Equal([]byte(current.Data[CAFile]), bundle):
		current.Data = map[string]string{CAFile: string(bundle)}
		_, err = client.Update(ctx, current, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("telling agents whom to trust in the ConfigMap %s/%s: %w", k.config.Namespace, ConfigMapName, err)
	}
	return nil
}
