package controlplane

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/client-go/informers"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	corerest "k8s.io/kubernetes/pkg/registry/core/rest"
	secretstore "k8s.io/kubernetes/pkg/registry/core/secret/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	"k8s.io/kubernetes/pkg/serviceaccount"

	dcorev1 "drayage.dev/apis/core/v1"
	"drayage.dev/internal/scheme"
	"drayage.dev/internal/upstream"
)

// boundObjects finds the pods and nodes that service-account tokens are bound to. Upstream's generic
// control plane knows none and refuses such tokens; ours are Drayage's.
type boundObjects struct {
	// client reads Drayage's kinds, core Kubernetes' own. They are set once the API server is assembled, before it serves.
	client clientrest.Interface
	core   corev1client.CoreV1Interface
}

// connect gives the lookup its connection.
func (b *boundObjects) connect(loopback *clientrest.Config) error {
	config := clientrest.CopyConfig(loopback)
	config.QPS = -1
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return err
	}
	b.core = core
	config.APIPath, config.GroupVersion, config.ContentType = "/apis", &dcorev1.GroupVersion, runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme.New()).WithoutConversion()
	b.client, err = clientrest.RESTClientFor(config)
	return err
}

func (b *boundObjects) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &dcorev1.Pod{}
	err := b.client.Get().Namespace(namespace).Resource("pods").Name(name).Do(ctx).Into(pod)
	return upstream.Pod(pod), err
}

func (b *boundObjects) node(ctx context.Context, name string) (*corev1.Node, error) {
	node := &dcorev1.Node{}
	err := b.client.Get().Resource("nodes").Name(name).Do(ctx).Into(node)
	return upstream.Node(node), err
}

// tokenGetter tells the token authenticator whether what a token is bound to is still there. As upstream's, it asks for what the
// listers do not know: that may have been made just now.
type tokenGetter struct {
	bound    *boundObjects
	secrets  corelisters.SecretLister
	accounts corelisters.ServiceAccountLister
}

func (b *boundObjects) tokenGetter(factory informers.SharedInformerFactory) serviceaccount.ServiceAccountTokenGetter {
	return tokenGetter{bound: b, secrets: factory.Core().V1().Secrets().Lister(), accounts: factory.Core().V1().ServiceAccounts().Lister()}
}

func (g tokenGetter) GetServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if account, err := g.accounts.ServiceAccounts(namespace).Get(name); err == nil {
		return account, nil
	}
	return g.bound.core.ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g tokenGetter) GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	if secret, err := g.secrets.Secrets(namespace).Get(name); err == nil {
		return secret, nil
	}
	return g.bound.core.Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g tokenGetter) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return g.bound.pod(ctx, namespace, name)
}

func (g tokenGetter) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	return g.bound.node(ctx, name)
}

// coreGroup is Kubernetes' core group of a generic control plane, with token requests that may be bound to
// Drayage's pods and nodes.
type coreGroup struct {
	*corerest.GenericConfig
	bound *boundObjects
}

func (c coreGroup) NewRESTStorage(resources serverstorage.APIResourceConfigSource, options generic.RESTOptionsGetter) (genericapiserver.APIGroupInfo, error) {
	info, err := c.GenericConfig.NewRESTStorage(resources, options)
	if err != nil {
		return info, err
	}
	storage := info.VersionedResourcesStorageMap["v1"]
	secrets, ok := storage["secrets"].(*secretstore.REST)
	if !ok {
		return info, fmt.Errorf("installing token requests: the storage of secrets is a %T", storage["secrets"])
	}
	accounts, err := serviceaccountstore.NewREST(options, c.ServiceAccountIssuer, c.APIAudiences, c.ServiceAccountMaxExpiration,
		podGetter{c.bound}, secrets.Store, nodeGetter{c.bound}, c.ExtendExpiration, c.MaxExtendedExpiration)
	if err != nil {
		return info, fmt.Errorf("installing token requests: %w", err)
	}
	if old := storage["serviceaccounts"]; old != nil {
		old.Destroy()
	}
	storage["serviceaccounts"], storage["serviceaccounts/token"] = accounts, accounts.Token
	return info, nil
}

// podGetter answers token requests, which ask for internal types.
type podGetter struct{ bound *boundObjects }

func (g podGetter) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	pod, err := g.bound.pod(ctx, request.NamespaceValue(ctx), name)
	if err != nil {
		return nil, err
	}
	internal := &core.Pod{}
	return internal, legacyscheme.Scheme.Convert(pod, internal, nil)
}

// nodeGetter is podGetter for nodes.
type nodeGetter struct{ bound *boundObjects }

func (g nodeGetter) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	node, err := g.bound.node(ctx, name)
	if err != nil {
		return nil, err
	}
	internal := &core.Node{}
	return internal, legacyscheme.Scheme.Convert(node, internal, nil)
}

var _, _ rest.Getter = podGetter{}, nodeGetter{}
