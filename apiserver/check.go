package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/kubelet/client"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// checkPatience bounds a node's check: it waits for packets that get lost.
const checkPatience = 50 * time.Second

// checkREST is nodes/check: it hands the question to the node's agent and its report back.
type checkREST struct {
	statusKind
	nodes client.ConnectionInfoGetter
}

var _ rest.Connecter = &checkREST{}

// NewConnectOptions says that the request's body is its own affair.
func (*checkREST) NewConnectOptions() (runtime.Object, bool, string) { return nil, false, "" }

// ConnectMethods is the one by which a check is asked for.
func (*checkREST) ConnectMethods() []string { return []string{http.MethodPost} }

// Connect returns the handler of a question.
func (r *checkREST) Connect(ctx context.Context, node string, _ runtime.Object, responder rest.Responder) (http.Handler, error) {
	info, err := r.nodes.GetConnectionInfo(ctx, types.NodeName(node))
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		report, err := r.ask(request, node, info)
		if err != nil {
			responder.Error(err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// Nobody is left to tell when the client is gone.
		_, _ = w.Write(report)
	}), nil
}

func (r *checkREST) ask(request *http.Request, node string, info *client.ConnectionInfo) (report []byte, err error) {
	ctx, cancel := context.WithTimeout(request.Context(), checkPatience)
	defer cancel()
	body := io.LimitReader(request.Body, subresourcesv1alpha1.MaxCheckBytes)
	url := fmt.Sprintf("%s://%s:%s/check", info.Scheme, info.Hostname, info.Port)
	forwarded, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return nil, err
	}
	answer, err := info.Transport.RoundTrip(forwarded)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("asking node %q to check its network: %v", node, err))
	}
	defer answer.Body.Close()
	report, err = io.ReadAll(io.LimitReader(answer.Body, subresourcesv1alpha1.MaxCheckBytes))
	switch {
	case err != nil:
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("reading what node %q has found: %v", node, err))
	case answer.StatusCode == http.StatusNotFound:
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("the agent of node %q is of a version that cannot check its network", node))
	case answer.StatusCode != http.StatusOK:
		return nil, apierrors.NewInternalError(fmt.Errorf("node %q: %s", node, report))
	}
	return report, nil
}
