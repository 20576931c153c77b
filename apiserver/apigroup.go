package apiserver

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	restclient "k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podrest "k8s.io/kubernetes/pkg/registry/core/pod/rest"
	"k8s.io/utils/clock"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/apiserver/applied"
	"drayage.dev/apiserver/podobjects"
)

// LongRunning returns the subresources, beyond upstream's own, whose requests stay open for as long as
// their client likes: the server that installs the group must not time them out.
func LongRunning() []string {
	return []string{subresourcesv1alpha1.PodObjectsSubresource, subresourcesv1alpha1.AppliedSubresource}
}

// Config is what the group needs of the server that installs it.
type Config struct {
	// Client reaches the API server that holds pods, nodes, secrets, config maps and service accounts,
	// with the right to read them in every namespace and to create tokens. It need not serve yet.
	Client *restclient.Config
	// Authorizer decides as the installing server does. A WebSocket is opened by a GET, and whoever
	// may only get pods/exec must not get a shell by it.
	Authorizer authorizer.Authorizer
	// CAFile is the authority that signs the serving certificates of nodes; ClientCertFile and
	// ClientKeyFile are the server's identity towards them, drayage:apiserver. The files are read
	// again when they change.
	CAFile, ClientCertFile, ClientKeyFile string
	// NodeServiceAccount is the user of the agents' service account where agents are pods of a cluster;
	// which node's agent a caller is, its token says. Empty: nodes have client certificates only.
	NodeServiceAccount string
	// Replicas calls changed with how to reach each other replica of this API, by a name that stays that replica's,
	// at once and whenever they change, until ctx ends. Nil where there are none.
	Replicas func(ctx context.Context, changed func(map[string]*restclient.Config)) error
	// ReplicaUser is who they are, and who this one is to them.
	ReplicaUser string
}

// NewAPIGroup returns the group subresources.drayage.dev/v1alpha1. Its streams end with ctx.
func NewAPIGroup(ctx context.Context, config Config) (*genericapiserver.APIGroupInfo, error) {
	reader, err := newReader(config.Client)
	if err != nil {
		return nil, err
	}
	nodes, err := newNodeConnections(reader, config)
	if err != nil {
		return nil, fmt.Errorf("preparing connections to nodes: %w", err)
	}
	broker, err := podobjects.New(ctx, config.Client)
	if err != nil {
		return nil, err
	}
	evictions, err := newEvictionStore(config.Client)
	if err != nil {
		return nil, err
	}
	ledger := applied.New()
	if err := ledger.Follow(ctx, config.Client); err != nil {
		return nil, err
	}

	if config.Replicas != nil {
		if err := relay(ctx, ledger, config.Replicas); err != nil {
			return nil, fmt.Errorf("following the other replicas: %w", err)
		}
	}

	gv := subresourcesv1alpha1.GroupVersion
	pods := reader.pods()
	// Upstream's scheme knows the options of upstream's subresources; nothing else of the group has a
	// type that the API machinery would have to know.
	info := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, legacyscheme.Scheme, legacyscheme.ParameterCodec, legacyscheme.Codecs)
	info.PrioritizedVersions = []schema.GroupVersion{gv}
	info.VersionedResourcesStorageMap[gv.Version] = map[string]rest.Storage{
		subresourcesv1alpha1.PodsResource:             &parent{kind: "PodSubresources", singular: "podsubresource", namespaced: true},
		podsPath(subresourcesv1alpha1.LogSubresource): &logREST{pods: pods, nodes: nodes},
		podsPath(subresourcesv1alpha1.ExecSubresource): &execREST{
			&podrest.ExecREST{Store: pods, KubeletConn: nodes, Authorizer: config.Authorizer}},
		podsPath(subresourcesv1alpha1.AttachSubresource): &attachREST{
			&podrest.AttachREST{Store: pods, KubeletConn: nodes, Authorizer: config.Authorizer}},
		podsPath(subresourcesv1alpha1.PortForwardSubresource): &portForwardREST{
			&podrest.PortForwardREST{Store: pods, KubeletConn: nodes, Authorizer: config.Authorizer}},
		podsPath(subresourcesv1alpha1.EvictionSubresource): &evictionREST{store: evictions, surge: surge{evictions, clock.RealClock{}}},

		subresourcesv1alpha1.NodesResource:                    &parent{kind: "NodeSubresources", singular: "nodesubresource"},
		nodesPath(subresourcesv1alpha1.CheckSubresource):      &checkREST{nodes: nodes},
		nodesPath(subresourcesv1alpha1.PodObjectsSubresource): &podObjectsREST{broker: broker, agents: config.NodeServiceAccount},
		nodesPath(subresourcesv1alpha1.PodTokensSubresource):  &podTokensREST{broker: broker, agents: config.NodeServiceAccount},
		nodesPath(subresourcesv1alpha1.AppliedSubresource):    &appliedREST{ledger: ledger, agents: config.NodeServiceAccount, replica: config.ReplicaUser},
	}
	return &info, nil
}

func podsPath(subresource string) string {
	return subresourcesv1alpha1.PodsResource + "/" + subresource
}

func nodesPath(subresource string) string {
	return subresourcesv1alpha1.NodesResource + "/" + subresource
}

// statusKind is the kind that storages report that have none of their own; errors have it anyway.
type statusKind struct{}

func (statusKind) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return metav1.Unversioned.WithKind("Status")
}
func (statusKind) New() runtime.Object { return &metav1.Status{} }
func (statusKind) Destroy()            {}

// parent is the resource that subresources hang from: the installer asks for one, clients have no use
// for it. Its kind differs from Pod and Node, so that kubectl never takes it for one of them.
type parent struct {
	statusKind
	kind, singular string
	namespaced     bool
}

var (
	_ rest.Storage              = &parent{}
	_ rest.Scoper               = &parent{}
	_ rest.KindProvider         = &parent{}
	_ rest.SingularNameProvider = &parent{}
)

func (p *parent) NamespaceScoped() bool   { return p.namespaced }
func (p *parent) Kind() string            { return p.kind }
func (p *parent) GetSingularName() string { return p.singular }
