package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"

	discoveryv1 "k8s.io/api/discovery/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	generatedopenapi "k8s.io/kubernetes/pkg/generated/openapi"

	"drayage.dev/apiserver"
	"drayage.dev/cmd/dray-manager/certs"
	"drayage.dev/cmd/replicas"
)

// aggregated serves the group subresources.drayage.dev behind an APIService. The cluster's API server
// authenticates and authorises for it, by token reviews, the front proxy's headers and access reviews.
type aggregated struct {
	server *genericapiserver.GenericAPIServer
	// frontProxy is how the API server in front is known; it is read from the cluster.
	frontProxy *authenticatorfactory.RequestHeaderConfig
	serves     atomic.Bool
}

func newAggregated(ctx context.Context, cfg *Config, restConfig *rest.Config, keeper *certs.Keeper) (*aggregated, error) {
	config, err := aggregatedConfig(cfg)
	if err != nil {
		return nil, err
	}
	config.ClientConfig = restConfig
	group, err := apiserver.NewAPIGroup(ctx, apiserver.Config{
		Client: restConfig, Authorizer: config.Authorization.Authorizer,
		CAFile: keeper.Path(certs.CAFile), ClientCertFile: keeper.Path(certs.ClientFile), ClientKeyFile: keeper.Path(certs.ClientFile),
		NodeServiceAccount: cfg.Cluster.agents(), Replicas: cfg.Cluster.replicas(restConfig, keeper), ReplicaUser: cfg.Cluster.managers(),
	})
	if err != nil {
		return nil, err
	}
	server, err := config.Complete().New("drayage-aggregated", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, err
	}
	if err := server.InstallAPIGroup(group); err != nil {
		return nil, fmt.Errorf("installing the group %v: %w", group.PrioritizedVersions, err)
	}
	a := &aggregated{server: server, frontProxy: config.Authentication.RequestHeaderConfig}
	return a, server.AddPostStartHook("drayage-serving", func(genericapiserver.PostStartHookContext) error {
		a.serves.Store(true)
		return nil
	})
}

// replicas follows the other managers by the endpoints of the Service that leads to all of them. They take this one's
// own identity, and show certificates of the authority that all share.
func (c Cluster) replicas(restConfig *rest.Config, keeper *certs.Keeper) func(context.Context, func(map[string]*rest.Config)) error {
	reach := func(address netip.AddrPort) *rest.Config {
		config := rest.CopyConfig(restConfig)
		config.Host, config.CAData, config.CAFile = replicas.Host(address), nil, keeper.Path(certs.CAFile)
		config.ServerName = apiService + "." + c.Namespace + ".svc"
		return config
	}
	return func(ctx context.Context, changed func(map[string]*rest.Config)) error {
		return replicas.Follow(ctx, replicas.Config{
			Client: restConfig, Slice: &discoveryv1.EndpointSlice{}, Namespace: c.Namespace, Service: apiService, Self: c.self, Reach: reach,
		}, changed)
	}
}

// self says whether an address is the one that this manager serves the aggregated API at.
func (c Cluster) self(address netip.AddrPort) bool {
	if c.BindAddress != "" {
		return address.Addr().String() == c.BindAddress
	}
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		network, ok := a.(*net.IPNet)
		return ok && network.IP.Equal(address.Addr().AsSlice())
	})
}

// aggregatedConfig is a generic API server without storage, admission or priority and fairness: it stores
// nothing, and the API server in front of it has done the latter.
func aggregatedConfig(cfg *Config) (*genericapiserver.RecommendedConfig, error) {
	serving := genericoptions.NewSecureServingOptions().WithLoopback()
	serving.BindPort = cfg.Cluster.APIPort
	if cfg.Cluster.BindAddress != "" {
		serving.BindAddress = net.ParseIP(cfg.Cluster.BindAddress)
	}
	serving.ServerCert.CertKey.CertFile, serving.ServerCert.CertKey.KeyFile = cfg.Cluster.servingFiles()
	authentication := genericoptions.NewDelegatingAuthenticationOptions()
	authentication.RemoteKubeConfigFile = cfg.Kubeconfig
	authorization := genericoptions.NewDelegatingAuthorizationOptions()
	authorization.RemoteKubeConfigFile = cfg.Kubeconfig
	if errs := append(append(serving.Validate(), authentication.Validate()...), authorization.Validate()...); len(errs) > 0 {
		return nil, utilerrors.NewAggregate(errs)
	}

	config := genericapiserver.NewRecommendedConfig(legacyscheme.Codecs)
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	namer := openapinamer.NewDefinitionNamer(legacyscheme.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title, config.OpenAPIV3Config.Info.Title = "Drayage", "Drayage"
	if err := serving.ApplyTo(&config.SecureServing, &config.LoopbackClientConfig); err != nil {
		return nil, err
	}
	if err := authentication.ApplyTo(&config.Authentication, config.SecureServing, config.OpenAPIConfig); err != nil {
		return nil, fmt.Errorf("preparing authentication: %w", err)
	}
	if err := authorization.ApplyTo(&config.Authorization); err != nil {
		return nil, fmt.Errorf("preparing authorization: %w", err)
	}
	upstream, streams := config.LongRunningFunc, sets.New(apiserver.LongRunning()...).Insert("log", "exec", "attach", "portforward")
	config.LongRunningFunc = func(r *http.Request, info *request.RequestInfo) bool {
		return upstream(r, info) || info.IsResourceRequest && streams.Has(info.Subresource)
	}
	return config, nil
}

func (a *aggregated) run(ctx context.Context) error {
	if err := a.server.PrepareRun().RunWithContext(ctx); err != nil {
		return fmt.Errorf("serving the aggregated API: %w", err)
	}
	return nil
}

// ready makes sure that requests of the API server will be known for its: one that is refused once lets it take
// the whole group for unavailable, for half a minute.
func (a *aggregated) ready() error {
	if !a.serves.Load() {
		return errors.New("the aggregated API is not served yet")
	}
	if a.frontProxy != nil && (len(a.frontProxy.UsernameHeaders.Value()) == 0 || len(a.frontProxy.CAContentProvider.CurrentCABundleContent()) == 0) {
		return errors.New("how the API server authenticates itself is not known yet: kube-system/extension-apiserver-authentication")
	}
	return nil
}
