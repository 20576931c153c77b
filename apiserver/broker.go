package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	dcorev1 "drayage.dev/apis/core/v1"
	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/apiserver/podobjects"
)

// maxTokenRequestBytes bounds the body of a request for a token.
const maxTokenRequestBytes = 64 << 10

// podObjectsREST is nodes/podobjects.
type podObjectsREST struct {
	statusKind
	broker *podobjects.Broker
	agents string
}

var _ rest.Connecter = &podObjectsREST{}

// NewConnectOptions says that the request has no options.
func (*podObjectsREST) NewConnectOptions() (runtime.Object, bool, string) { return nil, false, "" }

// ConnectMethods are the ones that open a stream.
func (*podObjectsREST) ConnectMethods() []string { return []string{http.MethodGet} }

// Connect returns the handler that streams the objects of node's pods.
func (r *podObjectsREST) Connect(ctx context.Context, node string, _ runtime.Object, _ rest.Responder) (http.Handler, error) {
	caller, err := onlyNode(ctx, r.agents, node, subresourcesv1alpha1.PodObjectsSubresource)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.broker.Stream(request.Context(), caller, node, w)
	}), nil
}

// podTokensREST is nodes/podtokens.
type podTokensREST struct {
	statusKind
	broker *podobjects.Broker
	agents string
}

var _ rest.Connecter = &podTokensREST{}

// NewConnectOptions says that the request has no options: what it asks for is its body.
func (*podTokensREST) NewConnectOptions() (runtime.Object, bool, string) { return nil, false, "" }

// ConnectMethods are the ones that mint a token.
func (*podTokensREST) ConnectMethods() []string { return []string{http.MethodPost} }

// Connect returns the handler that mints one token.
func (r *podTokensREST) Connect(ctx context.Context, node string, _ runtime.Object, responder rest.Responder) (http.Handler, error) {
	if _, err := onlyNode(ctx, r.agents, node, subresourcesv1alpha1.PodTokensSubresource); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		var wanted subresourcesv1alpha1.PodTokenRequest
		if err := json.NewDecoder(io.LimitReader(request.Body, maxTokenRequestBytes)).Decode(&wanted); err != nil {
			responder.Error(apierrors.NewBadRequest(fmt.Sprintf("reading the token request: %v", err)))
			return
		}
		token, err := r.broker.Token(request.Context(), node, &wanted)
		if err != nil {
			responder.Error(err)
			return
		}
		// The body is the caller's alone, so it is written here and not by the API machinery, which
		// would want to know the kind and offers the object to whoever traces responses.
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(token)
	}), nil
}

// onlyNode returns the caller's name when the caller is node, or an administrator who looks after it.
// RBAC lets every node use the subresource; which node it is, only the name in the path says. agents is the
// user of the agents' service account, empty for none.
func onlyNode(ctx context.Context, agents, node, subresource string) (string, error) {
	caller, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return "", apierrors.NewInternalError(errors.New("the request has no user"))
	}
	if !isNode(caller, agents, node) && !slices.Contains(caller.GetGroups(), user.SystemPrivilegedGroup) {
		return "", apierrors.NewForbidden(subresourcesv1alpha1.Resource(nodesPath(subresource)), node,
			fmt.Errorf("only node %q itself may use it, and %q is not that node", node, caller.GetName()))
	}
	return caller.GetName(), nil
}

// isNode says that the caller has the node's client certificate, or a token of the agents' service account
// that was made for a pod on that node.
func isNode(caller user.Info, agents, node string) bool {
	if slices.Contains(caller.GetGroups(), dcorev1.NodesGroup) {
		return caller.GetName() == dcorev1.NodeUserPrefix+node
	}
	return agents != "" && caller.GetName() == agents && slices.Equal(caller.GetExtra()[serviceaccount.NodeNameKey], []string{node})
}
