package apiserver

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	restclient "k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/pod"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// reader gets single pods and nodes from the API server. A stream is opened by a person now and then:
// a cache of every pod would cost more than all its reads.
type reader struct{ client restclient.Interface }

func newReader(config *restclient.Config) (*reader, error) {
	config = restclient.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &dcorev1.GroupVersion
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme.New()).WithoutConversion()
	config.QPS, config.RateLimiter = -1, nil // requests are limited where they come in
	client, err := restclient.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making the client for pods and nodes: %w", err)
	}
	return &reader{client}, nil
}

func (r *reader) node(ctx context.Context, name string) (*corev1.Node, error) {
	node := &dcorev1.Node{}
	if err := r.client.Get().Resource("nodes").Name(name).Do(ctx).Into(node); err != nil {
		return nil, err
	}
	return upstream.Node(node), nil
}

// pods returns the reader as upstream's locations of a pod's streams want it.
func (r *reader) pods() pod.ResourceGetter { return podGetter{r} }

type podGetter struct{ *reader }

// Get returns the pod name of the request's namespace in upstream's internal form.
func (g podGetter) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	found := &dcorev1.Pod{}
	err := g.client.Get().Namespace(genericapirequest.NamespaceValue(ctx)).Resource("pods").Name(name).Do(ctx).Into(found)
	if err != nil {
		return nil, err
	}
	internal := &core.Pod{}
	if err := legacyscheme.Scheme.Convert(upstream.Pod(found), internal, nil); err != nil {
		return nil, fmt.Errorf("reading pod %s/%s: %w", found.Namespace, found.Name, err)
	}
	return internal, nil
}
