package controlplane

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/authorization/union"
	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/kubernetes"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	upstreamcontrolplane "k8s.io/kubernetes/pkg/controlplane"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"
	"k8s.io/kubernetes/pkg/controlplane/apiserver/options"
	genericserver "k8s.io/kubernetes/pkg/controlplane/apiserver/samples/generic/server"
	generatedopenapi "k8s.io/kubernetes/pkg/generated/openapi"
	corerest "k8s.io/kubernetes/pkg/registry/core/rest"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"

	"drayage.dev/controlplane/clientcerts"
	"drayage.dev/controlplane/quota"

	_ "drayage.dev/controlplane/quiet" // silences a logger, see there
	"drayage.dev/internal/diagnostics"
)

// apiServerCount is how many API servers a new kind waits for. With more than one, upstream delays each by
// five seconds, for the sake of clients that change servers between two requests.
func (r *runner) apiServerCount() int {
	if r.alone() {
		return 1
	}
	return 2
}

// serviceAccountIssuer is what tokens say about where they come from.
const serviceAccountIssuer = "https://kubernetes.default.svc.cluster.local"

// watchGrace is how long a stopping server takes to end its watches one by one.
const watchGrace = time.Second

// newServer assembles the chain of API servers: aggregator, Kubernetes' generic groups with Config's groups
// beside them, and the kinds that are defined by objects.
func (r *runner) newServer(ctx context.Context) (*aggregatorapiserver.APIAggregator, error) {
	config, bound := r.config, &r.bound
	opts, err := r.serverOptions(ctx)
	if err != nil {
		return nil, err
	}
	generic, informers, storage, err := controlplaneapiserver.BuildGenericConfig(opts,
		[]*runtime.Scheme{legacyscheme.Scheme, apiextensionsapiserver.Scheme, aggregatorscheme.Scheme},
		upstreamcontrolplane.DefaultGenericAPIResourceConfigSource(),
		openAPIDefinitions(config.APIGroups))
	if err != nil {
		return nil, fmt.Errorf("configuring the API server on the storage %v: %w", r.etcdServers, err)
	}
	if err := bound.connect(generic.LoopbackClientConfig); err != nil {
		return nil, err
	}
	generic.Authentication.Authenticator = clientcerts.Remember(generic.Authentication.Authenticator, generic.SecureServing.ClientCA.CurrentCABundleContent)
	generic.Authorization.Authorizer = union.New(nodeReads{bound}, generic.Authorization.Authorizer)
	generic.LongRunningFunc = longRunning(generic.LongRunningFunc, config.APIGroups)

	resolver := webhook.NewDefaultServiceResolver()
	native, initializers, err := controlplaneapiserver.CreateConfig(opts, generic, informers, storage, resolver,
		[]admission.PluginInitializer{quota.Admission()})
	if err != nil {
		return nil, fmt.Errorf("configuring the API server: %w", err)
	}
	authInfo := webhook.NewDefaultAuthenticationInfoResolverWrapper(native.ProxyTransport, generic.EgressSelector, generic.LoopbackClientConfig, generic.TracerProvider)
	extensions, err := controlplaneapiserver.CreateAPIExtensionsConfig(*generic, informers, initializers, opts, r.apiServerCount(), resolver, authInfo)
	if err != nil {
		return nil, fmt.Errorf("configuring the server of custom resources: %w", err)
	}
	aggregator, err := controlplaneapiserver.CreateAggregatorConfig(*generic, opts, informers, resolver, native.ProxyTransport, native.PeerProxy, initializers)
	if err != nil {
		return nil, fmt.Errorf("configuring the aggregator: %w", err)
	}
	// Nobody runs API servers behind services that this process could reach: pods' addresses exist on
	// nodes only.
	aggregator.ExtraConfig.DisableRemoteAvailableConditionController = true

	notFound := notfoundhandler.New(generic.Serializer, genericapifilters.NoMuxAndDiscoveryIncompleteKey)
	extensionsServer, err := extensions.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(notFound))
	if err != nil {
		return nil, fmt.Errorf("making the server of custom resources: %w", err)
	}
	priorities := controlplaneapiserver.DefaultGenericAPIServicePriorities()
	nativeServer, err := newNativeServer(native.Complete(), extensionsServer.GenericAPIServer, bound)
	if err != nil {
		return nil, err
	}
	deps := Deps{
		Loopback: generic.LoopbackClientConfig, Authorizer: generic.Authorization.Authorizer, CAFile: r.certs.CAFile(),
		Kubeconfigs: r.kubeconfigs, Endpoint: r.endpoint(), Shared: !r.alone(),
	}
	deps.ClientCertFile, deps.ClientKeyFile = r.certs.ClientFiles(apiserverClient)
	if err := installGroups(ctx, config.APIGroups, nativeServer.GenericAPIServer, deps, priorities); err != nil {
		return nil, err
	}
	server, err := controlplaneapiserver.CreateAggregatorServer(aggregator.Complete(), nativeServer.GenericAPIServer,
		extensionsServer.Informers.Apiextensions().V1().CustomResourceDefinitions(), true, priorities)
	if err != nil {
		return nil, fmt.Errorf("making the aggregator: %w", err)
	}
	// The API server's metrics, and those of what else this process runs.
	mux := server.GenericAPIServer.Handler.NonGoRestfulMux
	mux.Unregister("/metrics")
	mux.Handle("/metrics", diagnostics.MetricsHandler())
	return server, nil
}

// newNativeServer makes the server of Kubernetes' own groups.
func newNativeServer(config controlplaneapiserver.CompletedConfig, next genericapiserver.DelegationTarget, bound *boundObjects) (*controlplaneapiserver.Server, error) {
	server, err := config.New("drayage-apiserver", next)
	if err != nil {
		return nil, fmt.Errorf("making the API server: %w", err)
	}
	client, err := kubernetes.NewForConfig(config.Generic.LoopbackClientConfig)
	if err != nil {
		return nil, err
	}
	providers, err := config.GenericStorageProviders(client.Discovery())
	if err != nil {
		return nil, fmt.Errorf("listing Kubernetes' groups: %w", err)
	}
	for i, provider := range providers {
		if core, ok := provider.(*corerest.GenericConfig); ok {
			providers[i] = coreGroup{core, bound}
		}
	}
	if err := server.InstallAPIs(providers...); err != nil {
		return nil, fmt.Errorf("installing Kubernetes' groups: %w", err)
	}
	return server, nil
}

func (r *runner) serverOptions(ctx context.Context) (options.CompletedOptions, error) {
	config, certs := r.config, r.certs
	opts := options.NewOptions()
	etcd := &opts.Etcd.StorageConfig.Transport
	etcd.ServerList, etcd.TrustedCAFile = r.etcdServers, config.EtcdTLS.CAFile
	etcd.CertFile, etcd.KeyFile = config.EtcdTLS.CertFile, config.EtcdTLS.KeyFile

	serving := opts.SecureServing
	serving.BindAddress, serving.BindPort, serving.Listener = net.ParseIP(config.BindAddress), config.Port, config.Listener
	serving.ServerCert.CertKey.CertFile, serving.ServerCert.CertKey.KeyFile = certs.ServingCert(), certs.ServingKey()
	generic := opts.GenericServerRunOptions
	generic.AdvertiseAddress = net.ParseIP(config.AdvertiseAddress)
	// Without these a stop waits up to a minute for clients to end their watches.
	generic.ShutdownSendRetryAfter, generic.ShutdownWatchTerminationGracePeriod = true, watchGrace

	authn := opts.Authentication
	authn.ClientCert.ClientCA = certs.CAFile()
	authn.BootstrapToken.Enable = true
	authn.ServiceAccounts.Issuers = []string{serviceAccountIssuer}
	authn.ServiceAccounts.KeyFiles = []string{certs.ServiceAccountKey()}
	authn.ServiceAccounts.OptionalTokenGetter = r.bound.tokenGetter
	opts.ServiceAccountSigningKeyFile = certs.ServiceAccountKey()
	opts.Authorization.Modes = []string{"RBAC"}

	configureAdmission(opts, config.AdmissionPlugins)
	if err := configureAudit(opts.Audit, config); err != nil {
		return options.CompletedOptions{}, err
	}

	completed, err := opts.Complete(ctx, nil, nil)
	if err != nil {
		return completed, fmt.Errorf("completing the API server's options: %w", err)
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return completed, fmt.Errorf("checking the API server's options: %w", utilerrors.NewAggregate(errs))
	}
	return completed, nil
}

// configureAdmission keeps the plugins of Kubernetes' generic control plane, without the two that serve
// nothing but core pods, and puts the given ones behind the check of the namespace.
func configureAdmission(opts *options.Options, plugins []AdmissionPlugin) {
	generic := opts.Admission.GenericAdmission
	generic.DefaultOffPlugins = genericserver.DefaultOffAdmissionPlugins().
		Insert(serviceaccount.PluginName, defaulttolerationseconds.PluginName)
	order := slices.Clone(generic.RecommendedPluginOrder)
	at := slices.Index(order, lifecycle.PluginName) + 1
	for i, plugin := range plugins {
		generic.Plugins.Register(plugin.Name, func(io.Reader) (admission.Interface, error) { return plugin.New() })
		order = slices.Insert(order, at+i, plugin.Name)
	}
	generic.RecommendedPluginOrder = order
}

func openAPIDefinitions(groups []APIGroup) openapicommon.GetOpenAPIDefinitions {
	return func(ref openapicommon.ReferenceCallback) map[string]openapicommon.OpenAPIDefinition {
		definitions := generatedopenapi.GetOpenAPIDefinitions(ref)
		for _, group := range groups {
			if group.OpenAPI == nil {
				continue
			}
			for name, definition := range group.OpenAPI(ref) {
				definitions[name] = definition
			}
		}
		return definitions
	}
}

func longRunning(upstream request.LongRunningRequestCheck, groups []APIGroup) request.LongRunningRequestCheck {
	subresources := sets.New[string]()
	for _, group := range groups {
		subresources.Insert(group.LongRunning...)
	}
	return func(r *http.Request, info *request.RequestInfo) bool {
		return upstream(r, info) || info.IsResourceRequest && subresources.Has(info.Subresource)
	}
}

// groupPriority places the groups of Config behind all others in discovery, those of custom resources (1000)
// included: "pods" and "node" are to be the kinds, never what carries their subresources.
const groupPriority = 100

func installGroups(ctx context.Context, groups []APIGroup, server *genericapiserver.GenericAPIServer, deps Deps, priorities map[schema.GroupVersion]controlplaneapiserver.APIServicePriority) error {
	for _, group := range groups {
		info, err := group.New(ctx, deps)
		if err != nil {
			return fmt.Errorf("making an API group: %w", err)
		}
		if err := server.InstallAPIGroup(info); err != nil {
			return fmt.Errorf("installing the group %v: %w", info.PrioritizedVersions, err)
		}
		for i, version := range info.PrioritizedVersions {
			priorities[version] = controlplaneapiserver.APIServicePriority{Group: groupPriority, Version: int32(15 - i)}
		}
	}
	return nil
}
