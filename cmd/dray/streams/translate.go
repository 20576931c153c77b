package streams

import (
	"regexp"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	dappsv1 "drayage.dev/apis/apps/v1"
	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/cmd/dray/client"
)

// getter gives kubectl's commands an API server whose pods are Drayage's.
type getter struct{ *client.Flags }

// ToRESTConfig returns how to reach it.
func (g *getter) ToRESTConfig() (*rest.Config, error) {
	config, err := g.Flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return client.Translate(config, ourPath), nil
}

// ToRESTMapper knows the kinds that lead to pods, and needs no discovery.
func (g *getter) ToRESTMapper() (meta.RESTMapper, error) {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion})
	for _, kind := range []schema.GroupVersionKind{
		corev1.SchemeGroupVersion.WithKind("Pod"), corev1.SchemeGroupVersion.WithKind("Service"),
		appsv1.SchemeGroupVersion.WithKind("Deployment"), appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
	} {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	return mapper, nil
}

// streamPath matches the subresources of a pod that are streams.
var streamPath = regexp.MustCompile(`^/api/v1(/namespaces/[^/]+/pods/[^/]+/(log|exec|attach|portforward))$`)

// objectPath matches the collections and objects that lead to a pod.
var objectPath = regexp.MustCompile(`^(?:/api/v1|(/apis/apps/v1))(/namespaces/[^/]+/(?:pods|services|deployments|replicasets)(?:/[^/]+)?)$`)

// ourPath returns where the API server keeps what upstream keeps under path. The answer to a stream is no
// object and must not be translated; nor is what leads nowhere.
func ourPath(path string) (translated string, object bool) {
	if match := streamPath.FindStringSubmatch(path); match != nil {
		return "/apis/" + subresourcesv1alpha1.GroupVersion.String() + match[1], false
	}
	if match := objectPath.FindStringSubmatch(path); match != nil {
		group := dcorev1.GroupVersion
		if match[1] != "" {
			group = dappsv1.GroupVersion
		}
		return "/apis/" + group.String() + match[2], true
	}
	return path, false
}
