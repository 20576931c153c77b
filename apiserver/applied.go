package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
	"drayage.dev/apiserver/applied"
)

// maxReportBytes bounds the body of a report, maxReportsBytes that of all nodes'.
const (
	maxReportBytes  = 1 << 10
	maxReportsBytes = 16 << 20
)

// appliedREST is nodes/applied.
type appliedREST struct {
	statusKind
	ledger *applied.Ledger
	agents string
	// replica is the user that other replicas of this API are; empty where there are none.
	replica string
}

var _ rest.Connecter = &appliedREST{}

// NewConnectOptions says that the request's options are its own affair.
func (*appliedREST) NewConnectOptions() (runtime.Object, bool, string) { return nil, false, "" }

// ConnectMethods are those that ask and that report.
func (*appliedREST) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

// Connect returns the handler of a node's report or question.
func (r *appliedREST) Connect(ctx context.Context, node string, _ runtime.Object, responder rest.Responder) (http.Handler, error) {
	if node == subresourcesv1alpha1.AllNodes {
		return r.connectReplica(ctx, responder)
	}
	if _, err := onlyNode(ctx, r.agents, node, subresourcesv1alpha1.AppliedSubresource); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		var err error
		if request.Method == http.MethodPost {
			err = r.report(node, request)
		} else {
			err = r.ask(request)
		}
		if err != nil {
			responder.Error(err)
			return
		}
		responder.Object(http.StatusOK, &metav1.Status{Status: metav1.StatusSuccess})
	}), nil
}

// connectReplica returns the handler of another replica's message.
func (r *appliedREST) connectReplica(ctx context.Context, responder rest.Responder) (http.Handler, error) {
	if caller, known := genericapirequest.UserFrom(ctx); !known || r.replica == "" || caller.GetName() != r.replica {
		return nil, apierrors.NewForbidden(subresourcesv1alpha1.Resource(nodesPath(subresourcesv1alpha1.AppliedSubresource)),
			subresourcesv1alpha1.AllNodes, errors.New("only another replica of this API may use it"))
	}
	return http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		var reports subresourcesv1alpha1.NodeReports
		if err := json.NewDecoder(io.LimitReader(request.Body, maxReportsBytes)).Decode(&reports); err != nil {
			responder.Error(apierrors.NewBadRequest(fmt.Sprintf("reading the reports: %v", err)))
			return
		}
		r.ledger.Merge(reports.Nodes)
		responder.Object(http.StatusOK, &metav1.Status{Status: metav1.StatusSuccess})
	}), nil
}

func (r *appliedREST) report(node string, request *http.Request) error {
	var report subresourcesv1alpha1.AppliedRevision
	if err := json.NewDecoder(io.LimitReader(request.Body, maxReportBytes)).Decode(&report); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("reading the report: %v", err))
	}
	r.ledger.Report(node, report.Revision)
	return nil
}

func (r *appliedREST) ask(request *http.Request) error {
	query := request.URL.Query()
	revision, err := strconv.ParseUint(query.Get(subresourcesv1alpha1.RevisionParameter), 10, 64)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("reading parameter %s: %v", subresourcesv1alpha1.RevisionParameter, err))
	}
	wait := subresourcesv1alpha1.MaxWait
	if text := query.Get(subresourcesv1alpha1.WaitParameter); text != "" {
		given, err := time.ParseDuration(text)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("reading parameter %s: %v", subresourcesv1alpha1.WaitParameter, err))
		}
		wait = min(wait, given)
	}
	ctx, cancel := context.WithTimeout(request.Context(), wait)
	defer cancel()
	if err := r.ledger.Await(ctx, revision); err != nil {
		return apierrors.NewTimeoutError(err.Error(), 0)
	}
	return nil
}
